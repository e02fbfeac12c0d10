"""One training's run: its parameters, metrics, data sets, artifacts and model."""

from __future__ import annotations

import contextlib
import json
import logging
import posixpath
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import hbt_ray
from hbt_ray.config import ConfigSection, RunConfig, flatten
from hbt_ray.errors import TrackingError
from hbt_ray.tracking.logged_model import write_mlflow_model
from hbt_ray.tracking.redaction import masked, masked_value
from hbt_ray.tracking.server import check_reachable, client_of, load_mlflow, mlflow_errors, short_timeouts, sqlite_file
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
METRICS_PER_BATCH = 1000

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
TABLES_TAG = "mlflow.loggedArtifacts"  # where MLflow looks for the tables it shows


def tracked_name(name: str) -> str:
    """The name under which MLflow keeps a metric or parameter; it allows letters, digits and `_-. /`.

    >>> tracked_name("xquad-r/mono/recall@10")
    'xquad-r/mono/recall_at_10'
    """
    allowed = re.sub(r"[^/\w.\- ]", "_", name.replace("@", "_at_"))
    return posixpath.normpath(allowed).strip("./")[:MAX_NAME] or "_"


@dataclass
class Tracker:
    """One training's run in MLflow. Plain values, so it may be pickled to another process.

    Every method raises TrackingError when the store cannot be written, except `log_metrics`.
    """

    uri: str = field(repr=False)  # may hold credentials
    experiment: str
    run_id: str
    unsent_file: Path | None = None  # keeps metrics that the store has not taken, for the next time the run goes on
    _unsent: list[tuple[str, float, int, int]] = field(default_factory=list, repr=False)  # name, value, ms, step

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        name: str,
        config: ConfigSection,
        run_id_file: StoragePath,
        unsent_file: Path | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Tracker:
        """Creates a run, or goes on in the one whose id stands in `run_id_file`.

        `config` becomes its parameters; a run's also tells some of its tags, beside those that are given.

        A setting that changed since the run began becomes a tag `resumed.<key>`: MLflow's parameters are written once.

        Raises:
            TrackingError: the store cannot be reached or written.
        """
        check_reachable(uri)
        with mlflow_errors(uri, "start a run"):
            client = client_of(uri)
            run = _kept_run(client, run_id_file)
            if run is None:
                run = client.create_run(
                    _experiment_id(client, uri, experiment), run_name=name, tags=_tags(config, tags)
                )
                run_id_file.write_text(run.info.run_id + "\n")
            else:
                client.update_run(run.info.run_id, status="RUNNING")
            _log_params(client, run, config)
        tracker = cls(uri=uri, experiment=experiment, run_id=run.info.run_id, unsent_file=unsent_file)
        tracker._send_kept()
        return tracker

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs values under `tracked_name`.

        A store that does not answer is waited for: values go out with the next ones, kept in `unsent_file` until then.
        """
        now_ms = int(time.time() * 1000)
        was_late = bool(self._unsent)
        new = [(tracked_name(name), float(value), now_ms, step) for name, value in metrics.items()]
        self._unsent += new
        try:
            self._send()
        except TrackingError as error:
            self._keep(new)
            if not was_late:
                logger.warning("%s. Metrics are kept until it answers.", error)
        else:
            if was_late and self.unsent_file:
                self.unsent_file.unlink(missing_ok=True)

    def _send(self) -> None:
        from mlflow.entities import Metric

        with mlflow_errors(self.uri, "log metrics"), short_timeouts():
            client = client_of(self.uri)
            while self._unsent:
                batch = [Metric(*values) for values in self._unsent[:METRICS_PER_BATCH]]
                client.log_batch(self.run_id, metrics=batch)
                del self._unsent[: len(batch)]

    def _keep(self, values: Sequence[tuple[str, float, int, int]]) -> None:
        if self.unsent_file:
            with self.unsent_file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps([self.run_id, *metric]) + "\n" for metric in values)

    def _send_kept(self) -> None:
        """Sends what an earlier part of this run could not."""
        if self.unsent_file is None or not self.unsent_file.exists():
            return
        for line in self.unsent_file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line cut short when its writer was killed
                run_id, *metric = json.loads(line)
                if run_id == self.run_id:
                    self._unsent.append(tuple(metric))
        self.log_metrics({}, step=0)

    def log_params(self, config: ConfigSection) -> None:
        """Adds parameters; one that is there already stays, and what would change it becomes a tag `resumed.<key>`."""
        with mlflow_errors(self.uri, "log parameters"):
            client = client_of(self.uri)
            _log_params(client, client.get_run(self.run_id), config)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets or replaces tags."""
        from mlflow.entities import RunTag

        with mlflow_errors(self.uri, "set tags"):
            values = [RunTag(tracked_name(key), masked_value(key, value)[:MAX_TAG]) for key, value in tags.items()]
            client_of(self.uri).log_batch(self.run_id, tags=values)

    def log_artifacts(self, source: Path, folder: str | None = None) -> None:
        """Copies a file, or all that lies in a folder, to the run's artifacts."""
        with mlflow_errors(self.uri, f"log {source}"):
            client = client_of(self.uri)
            log = client.log_artifacts if source.is_dir() else client.log_artifact
            log(self.run_id, str(source), folder)

    def log_text(self, text: str, file: str) -> None:
        """Writes an artifact, such as `config.yaml`, without the credentials of the URLs in the text."""
        with mlflow_errors(self.uri, f"log {file}"):
            client_of(self.uri).log_text(self.run_id, masked(text), file)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes `tables/<name>.json`, which MLflow shows as a table; logging it again replaces it."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[_finite(row.get(column)) for column in columns] for row in rows]
        file = f"tables/{name}.json"
        self.log_text(json.dumps({"columns": columns, "data": data}, ensure_ascii=False), file)
        with mlflow_errors(self.uri, f"log the table {name}"):
            client = client_of(self.uri)
            listed = json.loads(client.get_run(self.run_id).data.tags.get(TABLES_TAG, "[]"))
            entry = {"path": file, "type": "table"}
            if entry not in listed:
                client.set_tag(self.run_id, TABLES_TAG, json.dumps([*listed, entry]))

    def log_dataset(
        self, name: str, fingerprint: str, source: str | Path, profile: Mapping[str, Any], context: str
    ) -> None:
        """Notes which data the run used.

        Args:
            fingerprint: at most 36 characters, equal for equal data.
            source: a path or URL.
            profile: counts worth seeing, such as items and languages.
            context: what it served, such as "training" or "evaluation".
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        place = masked(str(source))
        scheme = urlsplit(place).scheme
        kind, key = ("http", "url") if scheme in {"http", "https"} else (scheme or "local", "uri")
        dataset = Dataset(
            name=name,
            digest=fingerprint[:MAX_DIGEST],
            source_type=kind,
            source=json.dumps({key: place}),
            profile=json.dumps(dict(profile), ensure_ascii=False),
        )
        with mlflow_errors(self.uri, f"log the data set {name}"):
            used_as = InputTag("mlflow.data.context", context)
            client_of(self.uri).log_inputs(self.run_id, [DatasetInput(dataset, [used_as])])

    def log_model(self, model_dir: Path, name: str = "model", step: int = 0) -> str:
        """Logs a sentence-transformers folder and returns its URI, `models:/<id>`.

        `mlflow.sentence_transformers.load_model` and `mlflow.pyfunc.load_model` load that URI; the artifact's folder
        `model.sentence_transformer` is one that `SentenceTransformer` loads.
        """
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        with mlflow_errors(self.uri, f"log the model in {model_dir}"), tempfile.TemporaryDirectory() as scratch:
            client = client_of(self.uri)
            experiment_id = client.get_run(self.run_id).info.experiment_id
            logged = client.create_logged_model(experiment_id, name, source_run_id=self.run_id)
            description = Model(
                artifact_path=logged.artifact_location,
                run_id=self.run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            )
            folder = Path(scratch, "model")
            write_mlflow_model(model_dir, folder, description)
            client.log_model_artifacts(logged.model_id, str(folder))
            client.finalize_logged_model(logged.model_id, "READY")
            client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, step)])
            return f"models:/{logged.model_id}"

    def register_model(self, model_uri: str, name: str, alias: str, description: str = "") -> str:
        """Makes a logged model, `models:/<id>`, a version in the Model Registry, which the alias then names.

        A run has one version of a name, whenever it is called.

        Returns:
            The version.
        """
        from mlflow.exceptions import MlflowException

        with mlflow_errors(self.uri, f"register {name}"):
            client = client_of(self.uri)
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            logged = client.get_logged_model(model_uri.removeprefix("models:/"))
            own = [known for known in client.search_model_versions(f"name='{name}'") if known.run_id == self.run_id]
            version = (
                own[0]
                if own
                else client.create_model_version(
                    name,
                    logged.artifact_location,
                    run_id=self.run_id,
                    model_id=logged.model_id,
                    description=description,
                )
            )
            client.set_registered_model_alias(name, alias, version.version)
            return str(version.version)

    @contextlib.contextmanager
    def system_metrics(self, interval_s: float = 10.0) -> Iterator[None]:
        """While it is open, this machine's CPU, memory, disk, network and GPU use go to the run as `system/...`."""
        load_mlflow()
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            self.run_id, sampling_interval=interval_s, resume_logging=True, tracking_uri=self.uri
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def finish(self, status: RunStatus = "FINISHED") -> None:
        """Sends what is unsent and ends the run."""
        self.log_metrics({}, step=0)
        with mlflow_errors(self.uri, "end the run"), short_timeouts():
            client_of(self.uri).set_terminated(self.run_id, status)


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


def _kept_run(client: MlflowClient, run_id_file: StoragePath) -> Run | None:
    """The run whose id the file keeps, if the store still has it."""
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
    return run


def _log_params(client: MlflowClient, run: Run, config: ConfigSection) -> None:
    from mlflow.entities import Param, RunTag

    params = {tracked_name(key): masked_value(key, value)[:MAX_PARAM] for key, value in flatten(config).items()}
    logged = run.data.params
    new = [Param(key, value) for key, value in params.items() if key not in logged]
    for first in range(0, len(new), PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=new[first : first + PARAMS_PER_BATCH])
    changed = [RunTag(f"resumed.{key}"[:MAX_NAME], v[:MAX_TAG]) for key, v in params.items() if logged.get(key, v) != v]
    if changed:
        client.log_batch(run.info.run_id, tags=changed)


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and value != value else value


def _tags(config: ConfigSection, given: Mapping[str, Any] | None) -> dict[str, str]:
    tags = {"hbt_version": hbt_ray.__version__}
    if isinstance(config, RunConfig):
        tags |= {"strategy": config.mix.strategy, "seed": str(config.seed)}
        if config.mix.strategy == "hybrid":
            tags["alpha"] = "scheduled" if config.mix.alpha_schedule else str(config.mix.alpha)
    tags |= {tracked_name(key): masked_value(key, value)[:MAX_TAG] for key, value in (given or {}).items()}
    return tags | _git_tags(Path(hbt_ray.__file__).parent)


def _git_tags(package: Path) -> dict[str, str]:
    """The commit this package was run from; nothing when it is installed, or git is missing."""
    try:
        git = ["git", "-C", str(package)]
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True, timeout=5)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        found = subprocess.run(describe, check=True, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    commit, dirty, _ = found.partition("-dirty")
    return {"mlflow.source.git.commit": commit} | ({"uncommitted_changes": "true"} if dirty else {})
