"""A run that loses processes or nodes ends with the weights of a reference run without faults.

Each fault is injected `HBT_FAULT_TIMES` times, at random moments; this takes minutes, so without that variable these
tests are skipped. Runs whose processes are killed save a checkpoint at every step, so that many kills hit a write.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
import pytest
from safetensors.torch import load_file

from hbt_ray.cluster.pipelines.train import run
from hbt_ray.config import RunConfig, dump_config
from tests.helpers import tiny_corpus
from tests.helpers.paths import REPOSITORY
from tests.helpers.ports import free_port
from tests.integration.conftest import MARK, tiny_config, tiny_pretraining, tiny_search, write_corpus
from tests.integration.fault_injection import (
    TIMES,
    contents,
    finish_command,
    injects_faults,
    kill_one,
    killed_command,
    losses,
    newest_step,
    repeated_steps,
    start_command,
    training_workers,
)
from tests.integration.fault_record import FaultRecord, recovery_seconds

STEPS = max(40, 8 * TIMES)
EQUAL_WEIGHTS = "weights equal byte for byte"
SERVER_START_S = 240  # on a machine with other load
pytestmark = injects_faults


def faulty_config(corpus: Path, steps: int = STEPS, **sections) -> RunConfig:
    # A vocabulary of some size: writing a checkpoint should take longer than a training step.
    small = {"layers": 1, "width": 64, "heads": 2, "vocabulary": 600}
    train = {"steps": steps, "checkpoint_every": max(steps // STEPS, 1), "max_failures": 20 + TIMES}
    return tiny_config(corpus, model={"small": small}, train=train, **sections)


@pytest.fixture(scope="module")
def reference_run(cluster, tmp_path_factory) -> tuple[Path, bytes]:
    """Return a corpus, and the weights of a run over it without faults."""
    folder = tmp_path_factory.mktemp("reference")
    corpus = write_corpus(folder)
    run(faulty_config(corpus), folder / "run")
    return corpus, model_of(folder / "run")


def model_of(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


class FaultInjector(threading.Thread):
    """Injects a fault at random moments, some steps after the last; every second time during a write."""

    def __init__(self, out: Path, inject: Callable[[], list[psutil.Process] | None]) -> None:
        """Args: the run's folder; injects a fault, and returns the processes that it ends, or None if it did not."""
        super().__init__(daemon=True)
        self.out = out
        self.inject = inject
        self.injected: list[int] = []  # the newest checkpoint at each fault
        self.recovery_s: list[float] = []
        self.during_write = 0
        self.ended = False
        self.draw = random.Random(3)

    def run(self) -> None:
        for time_ in range(TIMES):
            goal = newest_step(self.out) + self.draw.randint(1, max(STEPS // (TIMES + 1), 1))
            while newest_step(self.out) < goal and not self.ended:
                time.sleep(0.01)
            if time_ % 2 == 0:
                self._wait_for_write()
            else:
                time.sleep(self.draw.random() * 0.2)
            while not self.ended:
                at = newest_step(self.out)
                if (dying := self.inject()) is not None:
                    self.injected.append(at)
                    self.recovery_s += recovery_seconds(self.step, time.monotonic(), dying, lambda: self.ended)
                    break
                time.sleep(0.01)

    def step(self) -> int:
        return newest_step(self.out)

    def _wait_for_write(self) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until and not self.ended:
            for folder in self.out.glob("checkpoints/step-*"):
                if not (folder / "complete.json").exists():
                    self.during_write += 1
                    return


def report(fault: str, injector: FaultInjector, lost: int, compared: str = EQUAL_WEIGHTS) -> None:
    print(f"\n{fault}: faults after steps {injector.injected}")
    FaultRecord(fault, compared, len(injector.injected), injector.recovery_s, injector.during_write, lost).write()


@pytest.mark.parametrize(
    ("fault", "process"),
    [
        ("worker killed, several times in one run", "RayTrainWorker"),
        ("Ray Train's controller killed", "TrainController"),
    ],
    ids=["worker", "controller"],
)
def test_killed_worker_or_controller_changes_no_weight(reference_run, tmp_path, fault, process):
    corpus, expected = reference_run
    out = tmp_path / "run"

    def inject() -> list[psutil.Process] | None:
        workers = training_workers()
        return workers if kill_one(process) else None

    injector = FaultInjector(out, inject)
    injector.start()
    run(faulty_config(corpus), out)
    injector.ended = True
    injector.join()
    assert len(injector.injected) == TIMES
    assert model_of(out) == expected
    lost = repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", out, STEPS)
    assert lost <= 2 * TIMES  # the step being computed, and one that was logged before it was saved
    report(fault, injector, lost)


def test_killed_driver_resumes_when_called_again(reference_run, tmp_path):
    corpus, expected = reference_run
    out = tmp_path / "run"
    (tmp_path / "config.yaml").write_text(dump_config(faulty_config(corpus)))
    words: list[object] = ["train", "--config", tmp_path / "config.yaml", "--out", out]
    draw, killed_at = random.Random(5), []
    recovery_s: list[float] = []
    workers: list[psutil.Process] = []
    struck_s = 0.0
    for time_ in range(TIMES + 1):
        driver = start_command(words)
        if time_:
            recovery_s += recovery_seconds(
                lambda: newest_step(out), struck_s, workers, lambda d=driver: d.poll() is not None
            )
        if time_ == TIMES:
            break
        goal = newest_step(out) + draw.randint(1, max(STEPS // (TIMES + 1), 1))
        while newest_step(out) < goal and driver.poll() is None:
            time.sleep(0.01)
        assert driver.poll() is None, "the command ended before its fault"
        killed_at.append(newest_step(out))
        workers = training_workers()
        struck_s = time.monotonic()
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate(timeout=60)
    errors = finish_command(driver)
    assert "resuming from the checkpoint of step" in errors
    assert model_of(out) == expected
    lost = repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", out, STEPS)
    print(f"\ndriver killed after steps {killed_at}")
    FaultRecord(
        "driver killed, called again", f"{EQUAL_WEIGHTS}; no metric missing", TIMES, recovery_s, steps_lost=lost
    ).write()


def command_of(command: str, folder: Path) -> tuple[list[object], tuple[str, ...]]:
    """Make the inputs of a command; return its words without --out, and patterns of the files that it writes."""
    corpus, model = write_corpus(folder), folder / "model"
    tiny_corpus.make_encoder(model)
    name, *options = command.split()
    if name == "evaluate":
        words = [name, *options, "--model", model, "--benchmark", f"pairs={corpus}"]
        return words, ("report.json", "*.parquet", "*.csv", "*.trec", "*.png")
    settings: str
    if name == "pretrain":
        settings, patterns = dump_config(tiny_pretraining(corpus)), ("perplexity.json", "model/model.safetensors")
    elif name == "study":
        settings = json.dumps(study_settings(folder, corpus))
        patterns = ("summary.json", "table.csv", "figures/*.png", "cells/*/*/model/model.safetensors")
    elif name == "search":
        write_corpus(folder, "others", range(1000, 1012))
        settings = dump_config(tiny_search(corpus, seeds=[0, 1]))
        patterns = ("summary.json", "best.yaml", "figures/*.png", "chosen/*/model/model.safetensors")
    else:
        train = {"steps": 60, "checkpoint_every": 2}
        settings = dump_config(tiny_config(corpus, train=train) if name == "train" else tiny_config(corpus))
        options += ["--model", model] if name == "mine" else []
        patterns = ("*/*.jsonl", "*.jsonl", "*.json") if name == "mine" else ("model/model.safetensors",)
    (folder / "command.yaml").write_text(settings)
    return [name, *options, "--config", folder / "command.yaml"], patterns


@pytest.mark.parametrize("command", ["mine", "evaluate", "evaluate --shards 2", "pretrain", "search", "study"])
def test_killed_command_called_again_writes_equal_bytes(dashboard, tmp_path, monkeypatch, command):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words, patterns = command_of(command, tmp_path)
    folder, too_late, recovery_s = killed_command(words, tmp_path, TIMES)
    assert contents(folder, patterns) == contents(tmp_path / "reference", patterns)
    print(f"\n{command}: {too_late} calls ended before their fault")
    FaultRecord(f"`hbt {command}` killed, called again", "files equal byte for byte", TIMES, [recovery_s]).write()


@pytest.mark.parametrize("how", ["moved", "copied"])
@pytest.mark.parametrize("command", ["train", "mine", "pretrain", "search", "study"])
def test_killed_command_resumes_in_a_moved_or_copied_folder(dashboard, tmp_path, monkeypatch, command, how):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words, patterns = command_of(command, tmp_path)
    ids: list[str] = []  # of MLflow runs, in the order of calls

    def record_id(folder: Path) -> None:
        if (folder / "mlflow_run_id").exists():
            ids.append((folder / "mlflow_run_id").read_text().strip())

    def relocate(folder: Path) -> Path:
        record_id(folder)
        new = tmp_path / f"{folder.name}-{how}"
        if folder.exists():
            folder.rename(new) if how == "moved" else shutil.copytree(folder, new)
        return new

    folder, too_late, recovery_s = killed_command(words, tmp_path, TIMES, relocate=relocate)
    assert contents(folder, patterns) == contents(tmp_path / "reference", patterns)
    record_id(folder)
    if how == "moved":
        # A call that ended before its fault is repeated in a new folder. Mining has no MLflow run.
        assert len(set(ids)) <= 1 + too_late if command != "mine" else not ids
    else:
        assert command == "mine" or ids[-1] not in ids[:-1]
    print(f"\n{command}, {how}: {too_late} calls ended before their fault, {len(set(ids))} MLflow runs")
    fault = f"`hbt {command}` killed, its folder {how} and called again there"
    FaultRecord(fault, "files equal byte for byte", TIMES, [recovery_s]).write()


@pytest.mark.parametrize("actor", ["_PassageEmbedder", "_IndexOfShards"])
def test_killed_actor_of_an_evaluation_costs_one_sentence_at_most(dashboard, tmp_path, monkeypatch, actor):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    corpus, model = write_corpus(tmp_path, items=range(2000)), tmp_path / "model"
    tiny_corpus.make_encoder(model)

    words: list[object] = ["evaluate", "--shards", "2", "--model", model, "--benchmark", f"pairs={corpus}"]
    folder, too_late, recovery_s = killed_command(
        words,
        tmp_path,
        TIMES,
        inject=lambda _: kill_one(actor),
        deleted_before=tmp_path / "vectors",  # so that passages are embedded in every call
    )
    patterns = ("report.json", "*.parquet", "*.csv", "*.trec")
    assert contents(folder, patterns) == contents(tmp_path / "reference", patterns)
    print(f"\n{actor}: {too_late} calls ended before their fault")
    fault = f"an actor of `hbt evaluate --shards 2` killed ({actor.strip('_')})"
    FaultRecord(fault, "files equal byte for byte", TIMES, [recovery_s]).write()


def study_settings(folder: Path, corpus: Path) -> dict[str, object]:
    """Return a study of an untrained encoder, a trained one and a pretrained one."""
    write_corpus(folder, "others", range(1000, 1020))
    others = {"format": "jsonl", "path": str(folder / "others")}
    pretraining = {"steps": 4, "block_tokens": 16, "global_batch_blocks": 4, "chunk_blocks": 2, "precision": "fp32"}
    run = tiny_config(corpus, prepare={"near_duplicate_threshold": 1}, tracking={"log_model": False})
    return {
        "name": "tiny",
        "title": "A tiny study",
        "question": "Does training help?",
        "reference": "hybrid",
        "methods": {"untrained": {"trained": False}, "hybrid": {}, "pretrained": {"pretrained": "one"}},
        "pretraining": {"one": {"settings": {f"pretrain.{key}": value for key, value in pretraining.items()}}},
        "made": {"xm3600": {"corpus": others, "questions": 10}},
        "measures": ["xm3600/cross/map", "xm3600/multi/rank_distance"],
        "seeds": [0, 1],
        "concurrent": 2,
        "run": run.model_dump(mode="json"),
    }


def start_mlflow(folder: Path, port: int) -> subprocess.Popen:
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "art")]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline_s = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline_s:
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return server
        except OSError:
            time.sleep(0.25)
    stop_mlflow(server)
    raise AssertionError(f"the server did not start within {SERVER_START_S} s")


def stop_mlflow(server: subprocess.Popen) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_metrics_are_kept_while_mlflow_is_down_and_sent_later(reference_run, tmp_path):
    corpus, _ = reference_run
    out, port = tmp_path / "run", free_port()
    steps = 50 * STEPS  # the server takes a while to come back
    server = [start_mlflow(tmp_path, port)]

    def inject() -> list[psutil.Process]:
        stop_mlflow(server.pop())
        time.sleep(1)
        server.append(start_mlflow(tmp_path, port))
        return []

    injector = FaultInjector(out, inject)
    injector.start()
    uri = f"http://127.0.0.1:{port}"
    config = faulty_config(corpus, steps, tracking={"uri": uri, "log_model": False})
    run(config, out)
    injector.ended = True
    injector.join()
    run(config, out)  # sends what is left, if anything is
    assert len(injector.injected) == TIMES
    assert not (out / "unsent_metrics.jsonl").exists()
    assert repeated_steps(uri, out, steps) == 0
    stop_mlflow(server.pop())
    report("MLflow's server killed and started again", injector, 0, "no metric missing")


def test_lost_mlflow_server_costs_a_warning(reference_run, tmp_path, capfd):
    corpus, expected = reference_run
    out, port = tmp_path / "run", free_port()
    server = start_mlflow(tmp_path, port)

    def inject() -> list[psutil.Process]:
        stop_mlflow(server)
        return []

    injector = FaultInjector(out, inject)
    injector.start()
    run(faulty_config(corpus, tracking={"uri": f"http://127.0.0.1:{port}"}), out)
    injector.ended = True
    assert model_of(out) == expected
    assert "not tracked: no MLflow server answers" in capfd.readouterr().err
    kept = [json.loads(line) for line in (out / "unsent_metrics.jsonl").read_text().splitlines()]
    assert any(name == "train/loss" and step == STEPS for _, name, _, _, step, _ in kept)


def several_nodes(scenario: str, folder: Path) -> dict:
    write_corpus(folder)
    environment = {k: v for k, v in os.environ.items() if k not in {"RAY_ADDRESS", MARK}}
    words = [sys.executable, "-m", "tests.integration.two_node_cluster", scenario, str(folder), str(TIMES)]
    done = subprocess.run(
        words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900 + 60 * TIMES
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_lost_node_changes_no_weight(dashboard, tmp_path):
    found = several_nodes("raylet", tmp_path)
    assert len(found["lost_at"]) == TIMES
    assert model_of(tmp_path / "faulty") == model_of(tmp_path / "reference")
    lost = repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "faulty", found["steps"])
    assert lost <= TIMES * (found["checkpoint_every"] + 1)
    FaultRecord(
        "a node's raylet killed, another node joins", EQUAL_WEIGHTS, TIMES, found["recovery_s"], steps_lost=lost
    ).write()


def test_elastic_group_trains_on_the_same_batches(dashboard, tmp_path):
    found = several_nodes("elastic", tmp_path)
    assert found["sizes"] == [1, 2, 1]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    straight = dict(losses(uri, tmp_path / "reference"))
    resized = losses(uri, tmp_path / "faulty")
    furthest = max(abs(loss - straight[step]) for step, loss in resized)
    usual = median(abs(straight[step + 1] - straight[step]) for step in range(1, found["steps"]))
    assert furthest < 0.01 * usual  # the typical difference between the losses of two batches
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("reference", "faulty"))
    apart = sum((one[name] - other[name]).square().sum() for name in one) ** 0.5
    relative = float(apart / sum(value.square().sum() for value in one.values()) ** 0.5)
    assert relative < 1e-3
    lost = repeated_steps(uri, tmp_path / "faulty", found["steps"])
    compared = f"the same batches: losses {furthest:.1e} apart at most; weights {relative:.1e} of their length apart"
    FaultRecord(
        "the group resized by a node that joins and one that is lost", compared, 2, found["recovery_s"], 0, lost
    ).write()
    print(f"losses {furthest:.1e} apart at most, neighbours {usual:.1e}; weights {relative:.1e} of their length")


def test_preemption_notice_triggers_a_checkpoint(dashboard, tmp_path):
    found = several_nodes("preemption", tmp_path)
    assert found["saved"] > 0
    assert model_of(tmp_path / "faulty") == model_of(tmp_path / "reference")
    lost = repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "faulty", found["steps"])
    FaultRecord(
        "a node's preemption announced, then the node removed", EQUAL_WEIGHTS, 1, found["recovery_s"], steps_lost=lost
    ).write()
