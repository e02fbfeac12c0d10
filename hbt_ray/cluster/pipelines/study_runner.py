"""Runs a study's pretrainings and experiments: several at a time as tasks, or each with a worker group."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hbt_ray.cluster.evaluation.evaluate import evaluate_here, evaluate_on_cluster
from hbt_ray.cluster.mining import mine_on_cluster
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.resources import ResourceRequest, plan_concurrency
from hbt_ray.cluster.runtime import configure_task
from hbt_ray.cluster.task_pool import run_tasks
from hbt_ray.cluster.tracked_run import best_effort_tracking, log_report_metrics, start_tracker
from hbt_ray.cluster.training.train_run import train_run
from hbt_ray.config import (
    PretrainRunConfig,
    RunConfig,
    WrittenVariables,
    keep_written_variables,
    replace_in,
    with_settings,
    written_variables,
)
from hbt_ray.data.manifest import StoreManifest, read_manifest
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.data.token_store import TokenStore
from hbt_ray.debiasing.debias import debias_model
from hbt_ray.evaluation.compare import read_run_metrics
from hbt_ray.evaluation.encoder_metrics import benchmark_metrics
from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.run_evaluation import LoadOptions, check_benchmarks
from hbt_ray.models.averaging import average_encoders
from hbt_ray.models.encoder import training_device
from hbt_ray.pretraining.local_runner import pretrain_locally
from hbt_ray.sampling.factory import training_sampler, validation_sampler
from hbt_ray.sampling.token_counts import encoded_tokens, steps_of_tokens
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.experiments import (
    Experiment,
    TrainingTokens,
    is_pretrained,
    list_experiments,
    mark_pretrained,
    pretraining_config,
    pretraining_dir,
    pretraining_levels,
)
from hbt_ray.tracking import Tracker
from hbt_ray.training.checkpoint import export_encoder
from hbt_ray.training.initial_model import prepare_initial_model
from hbt_ray.training.resume import resumable_run
from hbt_ray.training.run_dir import RunDir
from hbt_ray.training.run_inputs import record_inputs
from hbt_ray.training.task import ContrastiveTask
from hbt_ray.utils.digests import content_digest
from hbt_ray.utils.file_names import word_name
from hbt_ray.utils.progress import print_line


@dataclass(frozen=True, slots=True)
class ExperimentInputs:
    """The store and the encoder that an experiment's training starts from."""

    store: Path
    model: str
    averaged_with: str | None  # the encoder whose weights are averaged with the trained ones


class StudyRunner:
    """Runs a study's pretrainings and experiments, and logs each experiment when it is finished.

    Stores, pretrained encoders and mined negatives are made once and shared by the experiments that need them.
    """

    def __init__(self, config: StudyConfig, folder: Path, num_experiments: int, tracker: Tracker) -> None:
        self.config = config
        self.folder = folder
        self.tracker = tracker
        self.num_experiments = num_experiments
        self.finished: list[Experiment] = []  # with their complete configurations
        self.trained_on: dict[str, StoreManifest] = {}  # by the store's folder
        self.pretrained_on: dict[str, StoreManifest] = {}
        self.training_tokens: dict[tuple[str, int], TrainingTokens] = {}  # by method and seed; see Method.tokens_of
        self._counts_tokens = any(method.tokens_of for method in config.methods.values())
        self._stores: dict[str, Path] = {}  # by `store_key`
        self._encoders: dict[tuple[str, int], str] = {}  # (method, seed) -> its encoder before averaging and debiasing
        self._results: dict[tuple[str, int], str] = {}  # -> its encoder after them. Both may not exist yet.
        self._benchmarks: dict[str, dict[str, str]] = {}  # fingerprints, by the settings that choose what is read

    def pretrain(self) -> None:
        """Pretrain the encoders that methods start from, concurrently as far as the cluster holds them.

        A pretraining that continues from another one runs after it.
        """
        for names in pretraining_levels(self.config):
            prepared = [self._prepare_pretraining(name, seed) for name in names for seed in self.config.seeds]
            unfinished = [(config, store) for config, store in prepared if not is_pretrained(self.folder, config)]
            request = self._plan_concurrency()
            jobs = []
            for config, store in unfinished:
                run_dir = pretraining_dir(self.folder, config)
                arguments = (config, store, run_dir, request.threads, written_variables())
                jobs.append((f"{config.name}, seed {config.seed}", _pretraining_task, arguments))
            for done, (label, seconds) in enumerate(run_tasks(jobs, request, "pretraining"), start=1):
                print_line(f"[{done}/{len(unfinished)}] pretraining {label} ({seconds:.0f} s)")

    def run_level(self, experiments: Sequence[Experiment]) -> None:
        """Finish experiments that do not depend on each other, concurrently as far as the cluster holds them.

        An encoder that no method trains is the same with every seed if it is a saved one. It is evaluated once.
        """
        prepared = [self._prepare(experiment) for experiment in experiments]
        finished = [one for one in prepared if self._is_finished(one[0])]
        unfinished = [one for one in prepared if one not in finished]
        self.finished += [experiment for experiment, _ in finished]
        different, repeated = _without_repeated(finished, unfinished)
        self._run(different)
        for experiment, first in repeated:
            reports = experiment.run_dir(self.folder).evaluations
            shutil.copytree(first.run_dir(self.folder).evaluations, reports, dirs_exist_ok=True)
            self._finish(experiment, 0.0)

    def _run(self, unfinished: Sequence[tuple[Experiment, ExperimentInputs]]) -> None:
        """Train and evaluate experiments."""
        if not unfinished:
            return
        request = self._plan_concurrency()
        if self.config.run.train.max_workers > 1:
            for experiment, inputs in unfinished:
                began_s = time.monotonic()
                _run_experiment(experiment, inputs, experiment.run_dir(self.folder), evaluate_on_cluster)
                self._finish(experiment, time.monotonic() - began_s)
            return
        jobs = [
            (
                experiment,
                _experiment_task,
                (experiment, inputs, experiment.run_dir(self.folder), request.threads, written_variables()),
            )
            for experiment, inputs in unfinished
        ]
        for experiment, seconds in run_tasks(jobs, request, "experiments", lambda one: one.label):
            self._finish(experiment, seconds)

    def _is_finished(self, experiment: Experiment) -> bool:
        return experiment.is_finished(
            self.folder,
            self._encoder_of(experiment),
            self._fingerprints(experiment),
            self._averaged_with(experiment),
        )

    def _encoder_of(self, experiment: Experiment) -> str:
        return self._encoders[experiment.method_name, experiment.seed]

    def _averaged_with(self, experiment: Experiment) -> str | None:
        name = experiment.method.averaged_with
        return None if name is None else self._results[name, experiment.seed]

    def _fingerprints(self, experiment: Experiment) -> dict[str, str]:
        """Return the fingerprint of each benchmark of an experiment; a method may read them in its way."""
        settings = experiment.config.evaluate
        key = repr((settings.benchmarks, settings.split, settings.with_paragraph))
        if key not in self._benchmarks:
            self._benchmarks[key] = check_benchmarks(settings)
        return self._benchmarks[key]

    def _plan_concurrency(self) -> ResourceRequest:
        # For all experiments, not the unfinished ones: results depend on the number of threads in their last bits.
        return plan_concurrency(self.config.run, self.config.concurrent or self.num_experiments)

    def _prepare_pretraining(self, name: str, seed: int) -> tuple[PretrainRunConfig, Path]:
        """Return a pretraining's complete configuration, and its store."""
        config = pretraining_config(self.config, name, seed)
        after = self.config.pretraining[name].after
        if after is not None:
            config = replace_in(config, "model.path", self._pretrained_model(after, seed))
        run_dir = resumable_run(config, pretraining_dir(self.folder, config).path, root=self.folder)
        store = prepare(config.prepare_inputs, self.folder / "stores")
        manifest = read_manifest(store)
        record_inputs(run_dir, config, manifest, root=self.folder)
        self.pretrained_on[str(store)] = manifest
        return config, store

    def _pretrained_model(self, name: str, seed: int) -> str:
        return str(pretraining_dir(self.folder, pretraining_config(self.config, name, seed)).model)

    def _prepare(self, experiment: Experiment) -> tuple[Experiment, ExperimentInputs]:
        """Resolve an experiment's inputs on the driver, because making them may use the whole cluster.

        Returns:
            The experiment with its complete configuration, and what its training starts from.
        """
        experiment = replace(experiment, config=self._with_results_of_others(experiment))
        config, run_dir = experiment.config, experiment.run_dir(self.folder)
        resumable_run(config, run_dir.path, root=self.folder)
        store = self._store_of(config)
        manifest = read_manifest(store)
        self.trained_on[str(store)] = manifest
        record_inputs(run_dir, config, manifest, root=self.folder)
        training_sampler(config, manifest)  # raises if the store cannot serve the configuration
        validation_sampler(config, manifest)
        encoder_of = experiment.method.encoder_of
        model = config.model.path or str(run_dir.initial_model)
        if encoder_of is not None:
            model = self._results[encoder_of, experiment.seed]
        elif not config.model.path and not run_dir.initial_model.exists():
            model = prepare_initial_model(config, store_tokenizer(store, config.prepare_inputs), run_dir)
        run_dir.write_config(config)
        if experiment.method.trained and self._counts_tokens:
            tokens = encoded_tokens(config, TokenStore.open(store))
            self.training_tokens[experiment.method_name, experiment.seed] = TrainingTokens(config.train.steps, tokens)
        inputs = ExperimentInputs(store, model, self._averaged_with(experiment))
        key = experiment.method_name, experiment.seed
        self._encoders[key] = _encoder_of(experiment, inputs, run_dir)
        self._results[key] = _evaluated_encoder(experiment, inputs, run_dir)
        return experiment, inputs

    def _with_results_of_others(self, experiment: Experiment) -> RunConfig:
        """Return the configuration with the pretrained encoder, mined negatives and teacher that its method names."""
        config, method, seed = experiment.config, experiment.method, experiment.seed
        if method.pretrained:
            config = replace_in(config, "model.path", self._pretrained_model(method.pretrained, seed))
        if method.mined_with:
            out = self.folder / "mined" / word_name(experiment.method_name) / f"seed-{seed}"
            mined = mine_on_cluster(
                config,
                self._results[method.mined_with, seed],
                out,
                query_prefix=config.text.query_prefix,
                passage_prefix=config.text.passage_prefix,
            )
            config = replace_in(config, "corpora", mined.corpora)
        if method.taught_by:
            config = with_settings(config, {"loss.distillation.teacher": self._results[method.taught_by, seed]})
        if method.tokens_of:
            config = replace_in(config, "train.steps", self._steps_of_equal_tokens(config, method.tokens_of))
        return config

    def _store_of(self, config: RunConfig) -> Path:
        """Return the token store of a configuration; make it the first time."""
        if config.store_key not in self._stores:
            self._stores[config.store_key] = prepare(config.prepare_inputs, self.folder / "stores")
        return self._stores[config.store_key]

    def _steps_of_equal_tokens(self, config: RunConfig, method_name: str) -> int:
        """Return the steps in which a configuration encodes as many tokens as another method with the same seed."""
        experiments = list_experiments(self.config, config.evaluate.benchmarks)
        other = next(one for one in experiments if (one.method_name, one.seed) == (method_name, config.seed))
        its_config = self._with_results_of_others(other)
        tokens = encoded_tokens(its_config, TokenStore.open(self._store_of(its_config)))
        return steps_of_tokens(config, TokenStore.open(self._store_of(config)), tokens)

    def _finish(self, experiment: Experiment, seconds: float) -> None:
        """Delete an experiment's checkpoints, mark it as finished, and log it."""
        run_dir = experiment.run_dir(self.folder)
        run_dir.checkpoints.delete()
        run_dir.checkpoint_metrics.delete()
        experiment.mark_finished(
            self.folder,
            self._encoder_of(experiment),
            self._fingerprints(experiment),
            self._averaged_with(experiment),
        )
        self.finished.append(experiment)
        metrics = read_run_metrics(run_dir.path)
        values = [f"{display_name(name)} {metrics[name]:.4g}" for name in self.config.measures if name in metrics]
        progress = f"[{len(self.finished)}/{self.num_experiments}]"
        print_line(f"{progress} {experiment.label}: {', '.join(values[:3])} ({seconds:.0f} s)")
        self._log(experiment)

    def log_missing(self) -> bool:
        """Log finished experiments that ended while MLflow was away; return whether MLflow has all of them."""
        for experiment in self.finished:
            if not experiment.is_logged(self.folder):
                self._log(experiment)
        return all(experiment.is_logged(self.folder) for experiment in self.finished)

    def _log(self, experiment: Experiment) -> None:
        """Log a finished experiment, and record that MLflow has it."""
        metrics = read_run_metrics(experiment.run_dir(self.folder).path)
        if best_effort_tracking(self.tracker, functools.partial(self._log_experiment, experiment, metrics)):
            experiment.mark_logged(self.folder)

    def _log_experiment(self, experiment: Experiment, metrics: dict[str, float]) -> None:
        """Log an experiment as an MLflow run below the study's."""
        parent, config, run_dir = self.tracker, experiment.config, experiment.run_dir(self.folder)
        tags = {"mlflow.parentRunId": parent.run_id, "study": self.config.name, "method": experiment.method_name}
        tracker = start_tracker(parent.uri, parent.experiment, experiment.label, config, run_dir, tags)
        log_report_metrics(tracker, metrics, experiment.steps(self.folder))
        tracker.finish()


def _pretraining_task(
    config: PretrainRunConfig, store: Path, run_dir: RunDir, threads: int, variables: WrittenVariables
) -> None:
    """Pretrain in this process, from the newest checkpoint to the finished encoder."""
    configure_task(threads)
    keep_written_variables(variables)
    pretrain_locally(config, store, run_dir, training_device(config.pretrain.gpu))
    run_dir.checkpoints.delete()
    mark_pretrained(run_dir)


def _experiment_task(
    experiment: Experiment, inputs: ExperimentInputs, run_dir: RunDir, threads: int, variables: WrittenVariables
) -> None:
    """Run an experiment in this process."""
    configure_task(threads)
    keep_written_variables(variables)
    _run_experiment(experiment, inputs, run_dir, functools.partial(evaluate_here, threads=threads))


def _run_experiment(
    experiment: Experiment, inputs: ExperimentInputs, run_dir: RunDir, evaluate: Callable[..., object]
) -> None:
    """Train an experiment from its newest checkpoint, if its method is trained, and write its reports.

    A method that averages weights or removes the language from the vectors does so after training.

    Args:
        experiment: with its complete configuration.
        inputs: the store and the encoder to start from.
        run_dir: of the experiment.
        evaluate: `evaluate_on_cluster` or `evaluate_here`: takes a model, settings, the reports'
            folder and how the model is loaded.
    """
    config = experiment.config
    if experiment.method.trained and not run_dir.model.exists():
        step = train_run(ContrastiveTask(config, inputs.model, benchmark_metrics), inputs.store, run_dir)
        export_encoder(config, inputs.model, inputs.store, run_dir.checkpoints, step, run_dir.model)
    model, options = config.model, _load_options(config)
    encoder = _encoder_of(experiment, inputs, run_dir)
    if inputs.averaged_with is not None:
        average_encoders(
            encoder,
            inputs.averaged_with,
            _averaged(run_dir),
            pooling=model.pooling,
            trust_remote_code=model.trust_remote_code,
        )
        encoder = str(_averaged(run_dir))
    if experiment.method.debiased:
        debias_model(
            encoder,
            config.corpora,
            _debiased(run_dir),
            method=experiment.method.debiased,
            items=experiment.debias_items,
            seed=config.seed,
            evaluation_sets=dict(config.prepare_inputs.evaluation_sets),
            split=config.evaluate.split,
            **options,
        )
    evaluate(_evaluated_encoder(experiment, inputs, run_dir), config.evaluate, run_dir.evaluations, **options)


def _load_options(config: RunConfig) -> LoadOptions:
    """Return how an experiment's encoder is loaded: it may have no prefixes, or others than those of the run."""
    model = config.model
    return LoadOptions(
        pooling=model.pooling,
        query_prefix=config.text.query_prefix,
        passage_prefix=config.text.passage_prefix,
        trust_remote_code=model.trust_remote_code,
    )


def _without_repeated(
    finished: Sequence[tuple[Experiment, ExperimentInputs]], unfinished: Sequence[tuple[Experiment, ExperimentInputs]]
) -> tuple[list[tuple[Experiment, ExperimentInputs]], list[tuple[Experiment, Experiment]]]:
    """Return the experiments to run, and those whose reports equal another one's, each with that one."""
    first_of = {_evaluation_key(*prepared): prepared[0] for prepared in reversed(finished)}
    different, repeated = [], []
    for experiment, inputs in unfinished:
        first = first_of.setdefault(_evaluation_key(experiment, inputs), experiment)
        if first is experiment:
            different.append((experiment, inputs))
        else:
            repeated.append((experiment, first))
    return different, repeated


def _evaluation_key(experiment: Experiment, inputs: ExperimentInputs) -> object:
    """Return a value that is equal for experiments whose reports are equal: of one saved encoder, read in one way."""
    if _evaluated_encoder(experiment, inputs, experiment.run_dir(Path())) != inputs.model:
        return experiment.label  # an encoder of its own; the seed chooses the texts that debiasing is fitted on
    config = experiment.config
    return content_digest(inputs.model), config.evaluate.fingerprint(), repr(_load_options(config))


def _encoder_of(experiment: Experiment, inputs: ExperimentInputs, run_dir: RunDir) -> str:
    """Return the trained encoder, or the initial one of a method that trains nothing."""
    return str(run_dir.model) if experiment.method.trained else inputs.model


def _averaged(run_dir: RunDir) -> Path:
    return run_dir.path / "averaged"


def _debiased(run_dir: RunDir) -> Path:
    return run_dir.path / "debiased"


def _evaluated_encoder(experiment: Experiment, inputs: ExperimentInputs, run_dir: RunDir) -> str:
    """Return the encoder that is evaluated, which other methods use: debiased, averaged, or as `_encoder_of` says."""
    if experiment.method.debiased:
        return str(_debiased(run_dir))
    return _encoder_of(experiment, inputs, run_dir) if inputs.averaged_with is None else str(_averaged(run_dir))
