"""What Ray Tune runs for each trial, and under which name a trial is known."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from hbt_ray.cluster.runtime import configure_task
from hbt_ray.cluster.training.async_evaluation import dev_set_metrics
from hbt_ray.cluster.training.train_run import train_run
from hbt_ray.config import RunConfig
from hbt_ray.search.candidates import Candidate, rounded, with_alphas
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.dev_set import dev_set
from hbt_ray.search.objectives import score
from hbt_ray.search.results import objective_values
from hbt_ray.training.checkpoint import CheckpointManager, step_name
from hbt_ray.training.checkpoint_metrics import evaluated_steps, load_checkpoint_metrics, save_checkpoint_metrics
from hbt_ray.training.run_dir import RunDir, run_dir_of
from hbt_ray.training.task import ContrastiveTask

STEP, SCORE, METRICS = "step", "score", "metrics"  # what a trial reports to Tune
FINISHED = "finished"  # a file in a trial's folder, written when it came to its end
ALPHAS = "alphas.json"  # of a member of a population: alpha from each batch on
MEASURED = "measured.json"  # in a checkpoint that Tune hands from one member to another


@dataclass(frozen=True, slots=True)
class Named:
    """A trial as it is known outside of Tune."""

    name: str
    point: Candidate
    seed: int


def named(search: SearchConfig, params: Mapping[str, Any], trial_id: str) -> Named:
    """What a trial's parameters in Tune stand for."""
    if search.algorithm == "pbt":
        # Of its parameters nothing names a member: they become another's when it takes over from that one.
        member = f"member={int(trial_id.rpartition('_')[2])}"
        return Named(member, Candidate({"mix.alpha": params["mix.alpha"]}), search.seeds[0])
    if "trial" in params:
        point, seed = Candidate(params["trial"]["values"]), int(params["trial"]["seed"])
        return Named(f"{point.name},seed={seed}", point, seed)
    point = Candidate({key: rounded(params[key]) for key in search.space})
    seed = search.seeds[int(params.get("__trial_index__", 0))]
    # The same values may be drawn twice: their folders must not be the same.
    return Named(f"{point.name},seed={seed},{trial_id.rpartition('_')[2]}", point, seed)


def trial_folder(out: Path, config: RunConfig, name: str) -> RunDir:
    return run_dir_of(config, out / "trials" / name)


def came_to_its_end(folder: RunDir, config: RunConfig) -> bool:
    """Whether a trial was trained to the end. A scheduler ends those that have done their steps before they say so."""
    return (folder.path / FINISHED).exists() or config.train.steps in evaluated_steps(folder.measured)


def trial_main(
    params: dict[str, Any],
    *,
    search: SearchConfig,
    out: str,
    stores: Mapping[str, str],
    models: Mapping[str, str],
    threads: int,
) -> None:
    """Trains and measures one trial; stopped, killed or handed another's checkpoint, it goes on from there.

    Args:
        stores: `store_key` of a configuration -> its store.
        models: `model_key` of a configuration -> the encoder that it starts from.
    """
    configure_task(threads)
    own = named(search, params, tune.get_context().get_trial_id())
    config = own.point.config(search.run, own.seed)
    folder = trial_folder(Path(out), config, own.name)
    folder.begin(config)
    if search.algorithm == "pbt":
        _take_over(folder)
        config = with_alphas(config, _alphas(folder, float(params["mix.alpha"]), config))
    store, model = stores[store_key(config)], models[model_key(config)]
    dev = dev_set(search.dev, store, config)

    def report(step: int, metrics: dict[str, float]) -> None:
        values = objective_values(search, metrics)
        told = {STEP: step, METRICS: metrics, SCORE: score(values, search.objectives, len(dev.passages)), **values}
        if search.algorithm != "pbt":
            tune.report(told)
            return
        with tempfile.TemporaryDirectory() as handed:
            _hand_over(folder, step, Path(handed))
            tune.report(told, checkpoint=tune.Checkpoint.from_directory(handed))

    config = _with_checkpoints_at(config, search.every)
    measure = functools.partial(dev_set_metrics, dev=search.dev, store=store)
    task = ContrastiveTask(config, model, measure)
    # PBT's scheduler remembers what its members reported, and would count a repeated report as more training.
    train_run(task, store, folder, every=search.every, report=report, replay=search.algorithm != "pbt")
    (folder.path / FINISHED).touch()


def _with_checkpoints_at(config: RunConfig, every: int) -> RunConfig:
    """A trial keeps a checkpoint wherever it is measured, and no other that nobody asked for."""
    often = min(config.train.checkpoint_every, every)
    often = often if every % often == 0 else every
    return config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_every": often})})


def store_key(config: RunConfig) -> str:
    """Equal for configurations that one store serves."""
    parts = [*config.corpora, config.prepare, config.text, config.model]
    return " ".join(part.fingerprint() for part in parts)


def model_key(config: RunConfig) -> str:
    """Equal for configurations that start from one encoder."""
    return f"{store_key(config)} {config.seed}"


# What members of a population hand to each other


def _hand_over(folder: RunDir, step: int, handed: Path) -> None:
    """Everything that another member needs to go on from this one's checkpoint."""
    place = folder.checkpoints / step_name(step)
    if place.exists():
        place.download(handed / step_name(step))
    known = [measured for measured in load_checkpoint_metrics(folder.measured) if measured[0] <= step]
    (handed / MEASURED).write_text(json.dumps(known))
    shutil.copy(folder.path / ALPHAS, handed / ALPHAS)


def _take_over(folder: RunDir) -> None:
    """Goes on from what Tune hands to this member: its own checkpoint, or a better one's in its place."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as handed:
        for place in (folder.checkpoints, folder.measured):
            place.delete()
        for found in sorted(Path(handed).glob("step-*")):
            target = folder.checkpoints / found.name
            if target.local:
                shutil.copytree(found, target.local)
            else:
                target.upload(found, last="complete.json")
        for step, metrics in json.loads(Path(handed, MEASURED).read_text()):
            save_checkpoint_metrics(folder.measured, step, metrics)
        shutil.copy(Path(handed, ALPHAS), folder.path / ALPHAS)


def _alphas(folder: RunDir, alpha: float, config: RunConfig) -> list[tuple[int, float]]:
    """Alpha from each batch on, with a new one from where the newest checkpoint stands."""
    alphas = read_alphas(folder) or [(0, alpha)]
    steps = CheckpointManager(folder.checkpoints).steps()
    batch = (steps[-1] if steps else 0) * config.train.gradient_accumulation
    if alphas[-1][1] != alpha:
        alphas = [entry for entry in alphas if entry[0] < batch] + [(batch, alpha)]
    (folder.path / ALPHAS).write_text(json.dumps(alphas))
    return alphas


def read_alphas(folder: RunDir) -> list[tuple[int, float]]:
    """Of a population's member, alpha from each batch on; nothing of another trial."""
    file = folder.path / ALPHAS
    return [(batch, alpha) for batch, alpha in json.loads(file.read_text())] if file.exists() else []
