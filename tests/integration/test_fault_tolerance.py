"""Nothing that is killed changes what a run leaves: it ends, and its weights are those of an undisturbed run.

Each fault strikes `HBT_FAULT_TIMES` times, at random moments; this takes minutes, so without that variable nothing
is struck here. Where processes are killed, a checkpoint is saved at every step, so that many are in mid-write then.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from hbt_ray.cluster.pipelines.train import run
from hbt_ray.config import RunConfig, dump_config
from tests.helpers.paths import REPOSITORY
from tests.helpers.ports import free_port
from tests.integration.conftest import MARK, tiny_config, write_corpus
from tests.integration.fault_injection import kill_one, newest_step

TIMES = int(os.environ.get("HBT_FAULT_TIMES", "0"))
STEPS = 40
pytestmark = pytest.mark.skipif(not TIMES, reason="takes minutes: set HBT_FAULT_TIMES to how often each fault strikes")


def faulty_config(corpus: Path, steps: int = STEPS, **sections) -> RunConfig:
    # A vocabulary of some size: writing a checkpoint should take longer than a training step.
    small = {"layers": 1, "width": 64, "heads": 2, "vocabulary": 600}
    train = {"steps": steps, "checkpoint_every": max(steps // STEPS, 1), "max_failures": 20}
    return tiny_config(corpus, model={"small": small}, train=train, **sections)


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory) -> tuple[Path, bytes]:
    """A corpus, and the weights of a run over it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    corpus = write_corpus(folder)
    run(faulty_config(corpus), folder / "run")
    return corpus, model_of(folder / "run")


def model_of(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


class Striker(threading.Thread):
    """Strikes at random moments: some steps after it struck last, and in every second case in mid-write."""

    def __init__(self, out: Path, strike: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self.out = out
        self.strike = strike
        self.struck: list[int] = []  # the newest checkpoint at each
        self.in_mid_write = 0
        self.ended = False
        self.draw = random.Random(3)

    def run(self) -> None:
        for time_ in range(TIMES):
            goal = newest_step(self.out) + self.draw.randint(1, max(STEPS // (TIMES + 1), 1))
            while newest_step(self.out) < goal and not self.ended:
                time.sleep(0.01)
            if time_ % 2 == 0:
                self._wait_for_a_write()
            else:
                time.sleep(self.draw.random() * 0.2)
            while not self.ended:
                at = newest_step(self.out)
                if self.strike():
                    self.struck.append(at)
                    break
                time.sleep(0.01)

    def _wait_for_a_write(self) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until and not self.ended:
            for folder in self.out.glob("checkpoints/step-*"):
                if not (folder / "complete.json").exists():
                    self.in_mid_write += 1
                    return


def losses(uri: str, out: Path) -> list[tuple[int, float]]:
    """(step, loss) of each step as MLflow has it; a step that was done again is there again."""
    run_id = (out / "mlflow_run_id").read_text().strip()
    history = MlflowClient(uri).get_metric_history(run_id, "train/loss")
    return [(metric.step, metric.value) for metric in history]


def repeated_steps(uri: str, out: Path, steps: int = STEPS) -> int:
    """How many steps were done again."""
    told = [step for step, _ in losses(uri, out)]
    assert set(told) == set(range(1, steps + 1)), "a step is missing"
    return len(told) - steps


def report(fault: str, struck: list[int], lost: int, in_mid_write: int = 0) -> None:
    print(f"\n{fault}: struck {len(struck)} times after steps {struck}, {in_mid_write} in mid-write, {lost} steps lost")


@pytest.mark.parametrize(("fault", "process"), [("worker", "RayTrainWorker"), ("controller", "TrainController")])
def test_a_killed_process_of_the_training_changes_nothing(undisturbed, tmp_path, fault, process):
    corpus, expected = undisturbed
    out = tmp_path / "run"
    striker = Striker(out, lambda: kill_one(process))
    striker.start()
    run(faulty_config(corpus), out)
    striker.ended = True
    striker.join()
    assert len(striker.struck) == TIMES
    assert model_of(out) == expected
    lost = repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", out)
    assert lost <= 2 * TIMES  # the one in the making, and the one told before it was saved
    report(fault, striker.struck, lost, striker.in_mid_write)


def test_a_killed_driver_goes_on_when_it_is_called_again(undisturbed, tmp_path):
    corpus, expected = undisturbed
    out = tmp_path / "run"
    (tmp_path / "config.yaml").write_text(dump_config(faulty_config(corpus)))
    words = [sys.executable, "-m", "hbt_ray.cli", "train", "--config", tmp_path / "config.yaml", "--out", out]
    draw, struck = random.Random(5), []
    for _ in range(TIMES):
        driver = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, start_new_session=True)
        goal = newest_step(out) + draw.randint(1, max(STEPS // (TIMES + 1), 1))
        while newest_step(out) < goal and driver.poll() is None:
            time.sleep(0.01)
        assert driver.poll() is None, driver.stderr.read().decode()
        struck.append(newest_step(out))
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    finished = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    assert "resuming from the checkpoint of step" in finished.stderr
    assert model_of(out) == expected
    lost = repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", out)
    report("driver", struck, lost)


def start_mlflow(folder: Path, port: int) -> subprocess.Popen:
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "art")]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return server
        except OSError:
            time.sleep(0.25)
    raise AssertionError("the server did not come up within 60 s")


def stop_mlflow(server: subprocess.Popen) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_metrics_that_mlflow_could_not_take_are_kept_and_sent_later(undisturbed, tmp_path):
    corpus, _ = undisturbed
    out, port = tmp_path / "run", free_port()
    steps = 50 * STEPS  # the server takes a while to come back
    server = [start_mlflow(tmp_path, port)]

    def strike() -> bool:
        stop_mlflow(server.pop())
        time.sleep(1)
        server.append(start_mlflow(tmp_path, port))
        return True

    striker = Striker(out, strike)
    striker.start()
    uri = f"http://127.0.0.1:{port}"
    config = faulty_config(corpus, steps, tracking={"uri": uri, "log_model": False})
    run(config, out)
    striker.ended = True
    striker.join()
    run(config, out)  # sends what is left, if anything is
    assert len(striker.struck) == TIMES
    assert not (out / "unsent_metrics.jsonl").exists()
    assert repeated_steps(uri, out, steps) == 0
    stop_mlflow(server.pop())
    report("MLflow server", striker.struck, 0)


def test_mlflow_gone_for_ever_costs_a_warning(undisturbed, tmp_path, capfd):
    corpus, expected = undisturbed
    out, port = tmp_path / "run", free_port()
    server = start_mlflow(tmp_path, port)

    def strike() -> bool:
        stop_mlflow(server)
        return True

    striker = Striker(out, strike)
    striker.start()
    run(faulty_config(corpus, tracking={"uri": f"http://127.0.0.1:{port}"}), out)
    striker.ended = True
    assert model_of(out) == expected
    assert "not tracked: no MLflow server answers" in capfd.readouterr().err
    kept = [json.loads(line) for line in (out / "unsent_metrics.jsonl").read_text().splitlines()]
    assert any(name == "train/loss" and step == STEPS for _, name, _, _, step in kept)


def several_nodes(scenario: str, folder: Path) -> dict:
    write_corpus(folder)
    environment = {k: v for k, v in os.environ.items() if k not in {"RAY_ADDRESS", MARK}}
    words = [sys.executable, "-m", "tests.integration.two_node_cluster", scenario, str(folder), str(TIMES)]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_lost_node_changes_nothing(dashboard, tmp_path):
    found = several_nodes("raylet", tmp_path)
    assert len(found["lost_at"]) == TIMES
    assert model_of(tmp_path / "disturbed") == model_of(tmp_path / "undisturbed")
    lost = repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "disturbed", found["steps"])
    assert lost <= TIMES * (found["checkpoint_every"] + 1)
    report("raylet", found["lost_at"], lost)


def test_a_group_grows_and_shrinks_with_the_cluster_over_the_same_batches(dashboard, tmp_path):
    found = several_nodes("elastic", tmp_path)
    assert found["sizes"] == [1, 2, 1]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    straight = dict(losses(uri, tmp_path / "undisturbed"))
    resized = losses(uri, tmp_path / "disturbed")
    furthest = max(abs(loss - straight[step]) for step, loss in resized)
    usual = median(abs(straight[step + 1] - straight[step]) for step in range(1, found["steps"]))
    assert furthest < 0.01 * usual  # what lies between the losses of two batches
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("undisturbed", "disturbed"))
    apart = sum((one[name] - other[name]).square().sum() for name in one) ** 0.5
    relative = float(apart / sum(value.square().sum() for value in one.values()) ** 0.5)
    assert relative < 1e-3
    lost = repeated_steps(uri, tmp_path / "disturbed", found["steps"])
    report("resized", [found["grown_at"], found["shrunk_at"]], lost)
    print(f"losses {furthest:.1e} apart at most, neighbours' {usual:.1e}; weights {relative:.1e} of their length")


def test_a_notice_that_a_node_will_be_taken_away_is_saved_for(dashboard, tmp_path):
    found = several_nodes("preemption", tmp_path)
    assert found["saved"] > 0
    assert model_of(tmp_path / "disturbed") == model_of(tmp_path / "undisturbed")
    lost = repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "disturbed", found["steps"])
    report("preemption", [found["saved"]], lost)
