"""Write one MLflow run: parameters, metrics, tags, data sets, artifacts, tables and the model."""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import logging
import os
import posixpath
import re
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import hbt_ray
from hbt_ray.config import ConfigSection, RunConfig, flatten_settings, stored_settings
from hbt_ray.errors import StorageError, TrackingError
from hbt_ray.tracking.logged_model import log_encoder, register_version
from hbt_ray.tracking.metric_buffer import MetricBuffer, MetricPoint
from hbt_ray.tracking.presentation import describe_run, save_runs_view
from hbt_ray.tracking.server import (
    check_reachable,
    load_mlflow,
    mlflow_client,
    mlflow_errors,
    short_timeouts,
    sqlite_file,
)
from hbt_ray.utils.file_names import word_name
from hbt_ray.utils.limits import load_json
from hbt_ray.utils.process import job_metadata
from hbt_ray.utils.progress import stage
from hbt_ray.utils.redaction import redact, redact_value, redacted_value
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

# MLflow's limits, in characters or entries.
MAX_NAME = 250
MAX_PARAM = 6000
MAX_TAG = 8000
MAX_DIGEST = 36
PARAMS_PER_BATCH = 100

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
FOLDER_TAG = "folder"  # of the run: where the file with its id is
_COMMAND_VARIABLE = "HBT_COMMAND"
TABLES_TAG = "mlflow.loggedArtifacts"  # where MLflow looks for the tables it shows


def tracked_name(name: str) -> str:
    """Return the name of a metric or parameter in MLflow, which allows letters, digits and `_-. /`.

    >>> tracked_name("xquad-r/mono/recall@10")
    'xquad-r/mono/recall_at_10'
    """
    allowed = re.sub(r"[^/\w.\- ]", "_", name.replace("@", "_at_"))
    return posixpath.normpath(allowed).strip("./")[:MAX_NAME] or "_"


@dataclass
class Tracker:
    """A run in MLflow. Can be pickled, because it opens a client for each request.

    Every method raises TrackingError if MLflow cannot be written, except `log_metrics`, which buffers.
    """

    uri: str = field(repr=False)  # may hold credentials
    experiment: str
    run_id: str
    unsent_file: Path | None = None  # of metrics that MLflow has not accepted, for the next process of the run
    _buffer: MetricBuffer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._buffer = MetricBuffer(self.run_id, self.unsent_file)

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        name: str,
        config: ConfigSection,
        run_id_file: StoragePath,
        unsent_file: Path | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> Tracker:
        """Create a run, or resume the one whose id is in `run_id_file`.

        A copy of a run's folder gets a run of its own; the tag `folder` distinguishes it from a folder that was moved.

        Args:
            uri: of the MLflow store.
            experiment: its name; created if it does not exist.
            name: of the run.
            config: becomes the run's parameters, and of a training run also the tags `strategy`, `alpha` and `seed`.
                MLflow's parameters are written once, so a setting that changed since becomes a tag `resumed.<key>`.
            run_id_file: read to resume, written for a new run.
            unsent_file: buffers metrics while MLflow does not answer; None: they are buffered in memory only.
            tags: of a new run, in addition.

        Raises:
            TrackingError: MLflow cannot be reached or written.
        """
        check_reachable(uri)
        with mlflow_errors(uri, "start a run"):
            client = mlflow_client(uri)
            run = _existing_run(client, run_id_file)
            if run is None:
                all_tags = _tags(config, tags) | {FOLDER_TAG: _folder_of(run_id_file)}
                run = client.create_run(_experiment_id(client, uri, experiment), run_name=name, tags=all_tags)
                run_id_file.write_text(run.info.run_id + "\n")
            else:
                client.update_run(run.info.run_id, status="RUNNING")
                client.set_tag(run.info.run_id, FOLDER_TAG, _folder_of(run_id_file))
            _log_params(client, run, config)
        tracker = cls(uri=uri, experiment=experiment, run_id=run.info.run_id, unsent_file=unsent_file)
        tracker._buffer.load()
        tracker._send_buffered()
        return tracker

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log values under their `tracked_name`; never raises, but buffers them while MLflow does not answer."""
        now_ms = int(time.time() * 1000)
        points = [MetricPoint(tracked_name(name), float(value), now_ms, step) for name, value in metrics.items()]
        self._buffer.log(points, self._send)

    def _send_buffered(self) -> None:
        self._buffer.log([], self._send, at_once=True)

    def _send(self, points: Sequence[MetricPoint]) -> None:
        from mlflow.entities import Metric

        with mlflow_errors(self.uri, "log metrics"), short_timeouts():
            mlflow_client(self.uri).log_batch(self.run_id, metrics=[Metric(*point) for point in points])

    def log_params(self, config: ConfigSection) -> None:
        """Add parameters; one that exists is not changed, but its new value becomes a tag `resumed.<key>`."""
        with mlflow_errors(self.uri, "log parameters"):
            client = mlflow_client(self.uri)
            _log_params(client, client.get_run(self.run_id), config)

    def present_results(self, results: Mapping[str, Mapping[str, float]]) -> None:
        """Show results in the run's description, and as columns and charts of the experiment's runs.

        Args:
            results: row, such as a benchmark -> metric, such as "mono/map" -> value. `<row>/<metric>` is its full name.
        """
        names = [tracked_name(f"{row}/{metric}") for row, of_row in results.items() for metric in of_row]
        with mlflow_errors(self.uri, "describe the run"):
            client = mlflow_client(self.uri)
            run = client.get_run(self.run_id)
            client.set_tag(self.run_id, "mlflow.note.content", describe_run(run, results)[:MAX_TAG])
            save_runs_view(client, run.info.experiment_id, names)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set or replace tags."""
        from mlflow.entities import RunTag

        with mlflow_errors(self.uri, "set tags"):
            values = [RunTag(tracked_name(key), redacted_value(key, value)[:MAX_TAG]) for key, value in tags.items()]
            mlflow_client(self.uri).log_batch(self.run_id, tags=values)

    def log_artifacts(self, source: Path, folder: str | None = None) -> None:
        """Copy a file, or the contents of a folder, to the run's artifacts."""
        with mlflow_errors(self.uri, f"log {source}"):
            client = mlflow_client(self.uri)
            log = client.log_artifacts if source.is_dir() else client.log_artifact
            log(self.run_id, str(source), folder)

    def log_text(self, text: str, file: str) -> None:
        """Write a text artifact, such as `config.yaml`, with credentials in URLs redacted."""
        with mlflow_errors(self.uri, f"log {file}"):
            mlflow_client(self.uri).log_text(self.run_id, redact(text), file)

    def log_table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Write or replace `tables/<name>.json`, which MLflow shows as a table."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[_finite(row.get(column)) for column in columns] for row in rows]
        file = f"tables/{name}.json"
        self.log_text(json.dumps({"columns": columns, "data": data}, ensure_ascii=False), file)
        with mlflow_errors(self.uri, f"log the table {name}"):
            client = mlflow_client(self.uri)
            listed = load_json(client.get_run(self.run_id).data.tags.get(TABLES_TAG, "[]"))
            entry = {"path": file, "type": "table"}
            if entry not in listed:
                client.set_tag(self.run_id, TABLES_TAG, json.dumps([*listed, entry]))

    def log_dataset(
        self, name: str, fingerprint: str, source: str | Path, profile: Mapping[str, object], context: str
    ) -> None:
        """Log a data set that the run used.

        Args:
            name: of the data set.
            fingerprint: equal for equal data; cut to 36 characters.
            source: a path or URL.
            profile: counts to show, such as items and languages.
            context: what it was used for, such as "training" or "evaluation".
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        location = redact_value(str(source))
        scheme = urlsplit(location).scheme
        source_type, key = ("http", "url") if scheme in {"http", "https"} else (scheme or "local", "uri")
        dataset = Dataset(
            name=name,
            digest=fingerprint[:MAX_DIGEST],
            source_type=source_type,
            source=json.dumps({key: location}),
            profile=json.dumps(dict(profile), ensure_ascii=False),
        )
        used_as = InputTag("mlflow.data.context", context)
        with mlflow_errors(self.uri, f"log the data set {name}"):
            log = functools.partial(mlflow_client(self.uri).log_inputs, self.run_id, [DatasetInput(dataset, [used_as])])
            try:
                log()
            except Exception as error:
                if "UNIQUE constraint" not in str(error):
                    raise
                log()  # another run added the data set between MLflow's query and its insertion; now it is found

    def log_model(self, model_dir: Path, name: str, step: int = 0, *, trust_remote_code: bool = False) -> str:
        """Log a sentence-transformers folder and return its URI, `models:/<id>`.

        Its name is `word_name(name)`, such as the run's: MLflow allows fewer characters.

        `mlflow.sentence_transformers.load_model` and `mlflow.pyfunc.load_model` load that URI. The artifact folder
        `model.sentence_transformer` is one that `SentenceTransformer` loads.
        """
        with mlflow_errors(self.uri, f"log the model in {model_dir}"), stage("logging the model to MLflow"):
            client = mlflow_client(self.uri)
            try:
                return log_encoder(
                    client, self.run_id, model_dir, word_name(name), step, trust_remote_code=trust_remote_code
                )
            except (ValueError, RuntimeError) as error:  # of loading or saving it
                reason = textwrap.shorten(redact(str(error)), 400, placeholder=" ...")
                raise TrackingError(
                    f"cannot log the model in {model_dir} to MLflow ({reason}); write tracking.log_model=false"
                ) from error

    def register_model(self, model_uri: str, name: str, alias: str, description: str = "") -> str:
        """Make a logged model, `models:/<id>`, a version in the Model Registry, and set the alias to it.

        A run has at most one version of a registered model, however often this is called.

        Returns:
            The version.
        """
        with mlflow_errors(self.uri, f"register {name}"):
            return register_version(mlflow_client(self.uri), self.run_id, model_uri, name, alias, description)

    @contextlib.contextmanager
    def system_metrics(self, interval_s: float = 10.0) -> Iterator[None]:
        """Log this machine's use of CPU, memory, disk, network and GPU as `system/...` while the block runs."""
        load_mlflow()
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            self.run_id, sampling_interval=interval_s, resume_logging=True, tracking_uri=self.uri
        )
        monitor.start()
        try:
            yield
        finally:
            with short_timeouts():  # it sends the last values
                monitor.finish()

    def finish(self, status: RunStatus = "FINISHED") -> None:
        """Send buffered metrics and set the run's final status."""
        self._send_buffered()
        with mlflow_errors(self.uri, "end the run"), short_timeouts():
            mlflow_client(self.uri).set_terminated(self.run_id, status)


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        file = sqlite_file(uri)
        location = (file.absolute().parent / "mlartifacts").as_uri() if file else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            known = client.get_experiment_by_name(name)  # a run that starts at the same time was first
            if known is None:
                raise
    if known.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment {name!r} was deleted in MLflow; restore it with "
            f"'mlflow experiments restore --experiment-id {known.experiment_id}' or set tracking.experiment to another"
        )
    return str(known.experiment_id)


def _existing_run(client: MlflowClient, run_id_file: StoragePath) -> Run | None:
    """Return the run whose id is in the file; None if there is none, or MLflow no longer has it."""
    from mlflow.exceptions import MlflowException

    if not run_id_file.exists():
        return None
    run_id = run_id_file.read_text().strip()
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        logger.warning("MLflow no longer has run %s, named in %s; a new one is made.", run_id, run_id_file)
        return None
    original = _original_of(run, run_id_file)
    if original is not None:
        logger.warning("%s is a copy of %s; a new MLflow run is made for it.", _folder_of(run_id_file), original)
        return None
    return run


def _folder_of(run_id_file: StoragePath) -> str:
    return redact_value(posixpath.dirname(run_id_file.path))[:MAX_TAG]


def _original_of(run: Run, run_id_file: StoragePath) -> str | None:
    """Return the folder that `run_id_file` was copied from with its folder; None if it was moved, or is where it was.

    1. The run's tag names the folder that wrote to it last. Runs of earlier versions have no tag.
    2. If that is another folder, and it still holds the run's id, this one is a copy.
    """
    # 1.
    before = run.data.tags.get(FOLDER_TAG)
    if before is None or before == _folder_of(run_id_file):
        return None
    # 2.
    original = StoragePath(before, run_id_file.query) / posixpath.basename(run_id_file.path)
    with contextlib.suppress(StorageError):
        if original.exists() and original.read_text().strip() == run.info.run_id and not original.is_same(run_id_file):
            return before
    return None


def _log_params(client: MlflowClient, run: Run, config: ConfigSection) -> None:
    from mlflow.entities import Param, RunTag

    settings = flatten_settings(stored_settings(config))
    params = {tracked_name(key): redacted_value(key, value)[:MAX_PARAM] for key, value in settings.items()}
    logged = run.data.params
    new = [Param(key, value) for key, value in params.items() if key not in logged]
    for first in range(0, len(new), PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=new[first : first + PARAMS_PER_BATCH])
    changed = [RunTag(f"resumed.{key}"[:MAX_NAME], v[:MAX_TAG]) for key, v in params.items() if logged.get(key, v) != v]
    if changed:
        client.log_batch(run.info.run_id, tags=changed)


def _finite(value: object) -> object:
    """Return None for NaN, which JSON does not have."""
    return None if isinstance(value, float) and value != value else value


def _tags(config: ConfigSection, given: Mapping[str, object] | None) -> dict[str, str]:
    tags = {"hbt_version": hbt_ray.__version__}
    if isinstance(config, RunConfig):
        tags |= {"strategy": config.mix.strategy, "seed": str(config.seed)}
        if config.mix.strategy == "hybrid":
            tags["alpha"] = "scheduled" if config.mix.alpha_schedule or config.mix.phases else str(config.mix.alpha)
    tags |= {tracked_name(key): redacted_value(key, value)[:MAX_TAG] for key, value in (given or {}).items()}
    return tags | _source_tags() | _git_tags(Path(hbt_ray.__file__).parent)


def keep_command() -> None:
    """Hand this process's command on to the processes that it starts, for `mlflow.source.name`."""
    os.environ.setdefault(_COMMAND_VARIABLE, _command())


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *map(redact_value, sys.argv[1:])])[:MAX_TAG]


def _source_tags() -> dict[str, str]:
    """Return the tags that MLflow's pages show as user and source: the command, with secrets redacted.

    A task's process has its command from the driver (`keep_command`), or none.
    """
    # Of another type MLflow's pages show only what comes after the last slash.
    tags = {"mlflow.source.type": "JOB"}
    command = os.environ.get(_COMMAND_VARIABLE, "" if Path(sys.argv[0]).name == "default_worker.py" else _command())
    if command:
        tags["mlflow.source.name"] = command
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _git_tags(package: Path) -> dict[str, str]:
    """Return the commit of the package's repository as tags; none if the package is installed, or git is missing.

    Ray uploads no repository with a job's working directory: there, `git_commit` of the job's metadata is the commit.
    """
    if "git_commit" in (submitted := job_metadata()):
        return {"mlflow.source.git.commit": submitted["git_commit"]}
    try:
        git = ["git", "-C", str(package)]
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True, timeout=5)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        found = subprocess.run(describe, check=True, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    commit, dirty, _ = found.partition("-dirty")
    return {"mlflow.source.git.commit": commit} | ({"uncommitted_changes": "true"} if dirty else {})
