"""Runs, data sets, metrics and models in MLflow, and only here.

For the driver and for Ray's controller, never for a training worker. Everything goes through `MlflowClient` with
the store's URI, so nothing depends on a process's active run. `import hbt_ray.tracking` does not import MLflow.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import posixpath
import re
import shlex
import socket
import subprocess
import tempfile
import textwrap
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import hbt_ray
from hbt_ray.config import RunConfig, TrackingConfig, flatten
from hbt_ray.errors import TrackingError
from hbt_ray.storage import Place

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

TIMEOUT_S = 4  # for an answer of a store
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
TABLES_TAG = "mlflow.loggedArtifacts"  # where MLflow looks for the tables it shows

MASK = "***"
# A whole word of the key: `hf_token` is a secret, `max_query_tokens` is not.
_SECRET_KEY = re.compile(r"(?:^|[^a-z])(?:token|passwords?|passwd|secrets?|credentials?|(?:api|access)_?key)(?![a-z])")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/]+@")  # user:password@ in a URL
_SECRET_QUERY = re.compile(r"(?i)(?<=[?&])([^=&\s]*(?:token|password|secret|signature|key)[^=&\s]*=)[^&\s]+")


def masked(text: str) -> str:
    """The text without the credentials of the URLs in it.

    >>> masked("cannot reach http://ada:pass@tracking:5000")
    'cannot reach http://***@tracking:5000'
    """
    return _SECRET_QUERY.sub(rf"\g<1>{MASK}", _CREDENTIALS.sub(f"{MASK}@", text))


def tracked_name(name: str) -> str:
    """The name under which MLflow keeps a metric or parameter; it allows letters, digits and `_-. /`.

    >>> tracked_name("xquad-r/mono/recall@10")
    'xquad-r/mono/recall_at_10'
    """
    allowed = re.sub(r"[^/\w.\- ]", "_", name.replace("@", "_at_"))
    return posixpath.normpath(allowed).strip("./")[:MAX_NAME] or "_"


def resolve_uri(tracking: TrackingConfig, run_dir: Path) -> str:
    """The store to track in: the configured one, else MLFLOW_TRACKING_URI, else a SQLite file beside the run's folder.

    Runs kept side by side share that file. A relative SQLite path is made absolute, for other processes to use.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir.absolute().parent}/mlflow.db"
    file = _sqlite_file(uri)
    return f"sqlite:///{file.absolute()}" if file else uri


def check(uri: str) -> None:
    """Makes sure that the store answers, within seconds.

    Raises:
        TrackingError: it cannot be reached or written, or is not MLflow.
    """
    file = _sqlite_file(uri)
    if file:
        _check_sqlite(file)
    with _explained(uri, "read runs"), _impatient():
        if file and not file.exists():
            _create_sqlite(file)
        _check_database_host(uri)
        _client(uri).search_experiments(max_results=1)


def ui_command(uri: str) -> str:
    """What a person types to look at the runs.

    >>> ui_command("sqlite:////data/runs/mlflow.db")
    'mlflow ui --backend-store-uri sqlite:////data/runs/mlflow.db'
    """
    if uri.startswith(("http://", "https://")):
        return f"open {masked(uri)}"
    return f"mlflow ui --backend-store-uri {shlex.quote(masked(uri))}"


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
        config: RunConfig,
        run_id_file: Place,
        unsent_file: Path | None = None,
    ) -> Tracker:
        """Creates a run, or goes on in the one whose id stands in `run_id_file`.

        A setting that changed since the run began becomes a tag `resumed.<key>`: MLflow's parameters are written once.

        Raises:
            TrackingError: the store cannot be reached or written.
        """
        check(uri)
        with _explained(uri, "start a run"):
            client = _client(uri)
            run = _kept_run(client, run_id_file)
            if run is None:
                run = client.create_run(_experiment_id(client, uri, experiment), run_name=name, tags=_tags(config))
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

        with _explained(self.uri, "log metrics"), _impatient():
            client = _client(self.uri)
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

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets or replaces tags."""
        from mlflow.entities import RunTag

        with _explained(self.uri, "set tags"):
            values = [RunTag(tracked_name(key), _value(key, value)[:MAX_TAG]) for key, value in tags.items()]
            _client(self.uri).log_batch(self.run_id, tags=values)

    def log_artifacts(self, source: Path, folder: str | None = None) -> None:
        """Copies a file, or all that lies in a folder, to the run's artifacts."""
        with _explained(self.uri, f"log {source}"):
            client = _client(self.uri)
            log = client.log_artifacts if source.is_dir() else client.log_artifact
            log(self.run_id, str(source), folder)

    def log_text(self, text: str, file: str) -> None:
        """Writes an artifact, such as `config.yaml`, without the credentials of the URLs in the text."""
        with _explained(self.uri, f"log {file}"):
            _client(self.uri).log_text(self.run_id, masked(text), file)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes `tables/<name>.json`, which MLflow shows as a table; logging it again replaces it."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[_finite(row.get(column)) for column in columns] for row in rows]
        file = f"tables/{name}.json"
        self.log_text(json.dumps({"columns": columns, "data": data}, ensure_ascii=False), file)
        with _explained(self.uri, f"log the table {name}"):
            client = _client(self.uri)
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
        with _explained(self.uri, f"log the data set {name}"):
            used_as = InputTag("mlflow.data.context", context)
            _client(self.uri).log_inputs(self.run_id, [DatasetInput(dataset, [used_as])])

    def log_model(self, model_dir: Path, name: str = "model", step: int = 0) -> str:
        """Logs a sentence-transformers folder and returns its URI, `models:/<id>`.

        `mlflow.sentence_transformers.load_model` and `mlflow.pyfunc.load_model` load that URI; the artifact's folder
        `model.sentence_transformer` is one that `SentenceTransformer` loads.
        """
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        with _explained(self.uri, f"log the model in {model_dir}"), tempfile.TemporaryDirectory() as scratch:
            client = _client(self.uri)
            experiment_id = client.get_run(self.run_id).info.experiment_id
            logged = client.create_logged_model(experiment_id, name, source_run_id=self.run_id)
            description = Model(
                artifact_path=logged.artifact_location,
                run_id=self.run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            )
            folder = Path(scratch, "model")
            _save_model(model_dir, folder, description)
            client.log_model_artifacts(logged.model_id, str(folder))
            client.finalize_logged_model(logged.model_id, "READY")
            client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, step)])
            return f"models:/{logged.model_id}"

    @contextlib.contextmanager
    def system_metrics(self, interval_s: float = 10.0) -> Iterator[None]:
        """While it is open, this machine's CPU, memory, disk, network and GPU use go to the run as `system/...`."""
        _mlflow()
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
        with _explained(self.uri, "end the run"), _impatient():
            _client(self.uri).set_terminated(self.run_id, status)


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as the store has it: parameters as text, each metric's latest value."""

    name: str
    run_id: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str] = field(default_factory=dict)


def training_runs(
    uri: str, experiment: str, names: Sequence[str] = (), tags: Mapping[str, str] | None = None
) -> list[TrackedRun]:
    """The runs of an experiment, oldest first: all, or those with these names or ids; of them, those with these tags.

    Args:
        experiment: its name or id.

    Raises:
        TrackingError: the store cannot be reached, has no such experiment, or lacks one of `names`.
    """
    file = _sqlite_file(uri)
    if file and not file.exists():
        raise TrackingError(f"there is no MLflow store {file}; set tracking.uri to the one the runs were tracked in")
    check(uri)
    found: list[TrackedRun] = []
    with _explained(uri, "read runs"):
        client = _client(uri)
        experiments = client.search_experiments()
        known = next((e for e in experiments if experiment in (e.name, e.experiment_id)), None)
        if known is None:
            others = ", ".join(repr(e.name) for e in experiments) or "none"
            raise TrackingError(f"{masked(uri)} has no experiment {experiment!r}; there are {others}")
        page_token = None
        while True:
            page = client.search_runs([known.experiment_id], order_by=["start_time ASC"], page_token=page_token)
            found += [_tracked_run(run) for run in page]
            page_token = page.token
            if not page_token:
                break
    missing = sorted(set(names) - {run.name for run in found} - {run.run_id for run in found})
    if missing:
        there = ", ".join(sorted({run.name for run in found})) or "none"
        raise TrackingError(f"experiment {experiment!r} has no run {missing[0]!r}; there are {there}")
    wanted = dict(tags or {})
    return [
        run
        for run in found
        if (not names or run.name in names or run.run_id in names) and wanted.items() <= run.tags.items()
    ]


def _tracked_run(run: Run) -> TrackedRun:
    return TrackedRun(
        name=run.info.run_name or run.info.run_id,
        run_id=run.info.run_id,
        status=run.info.status,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags={key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
    )


@functools.cache
def _mlflow() -> Any:
    """MLflow, told to keep to itself what nobody needs to read: migrations, missing git, where to click."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of minutes, when a run ends without its server
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def _client(uri: str) -> MlflowClient:
    mlflow = _mlflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own use of SQLAlchemy
        return mlflow.MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Seconds instead of MLflow's four minutes of retries."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S)}
    before = {key: os.environ.get(key) for key in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextlib.contextmanager
def _explained(uri: str, doing: str) -> Iterator[None]:
    """Turns what MLflow raises into one sentence with the way out."""
    _mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise TrackingError(_explanation(uri, doing, error)) from error


def _explanation(uri: str, doing: str, error: Exception) -> str:
    server = uri.startswith(("http://", "https://"))
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, OSError) and cause.filename is None:  # not a file's error, so the network's
        reason = masked(cause.strerror or str(cause) or type(cause).__name__)
        return (
            f"no MLflow {'server' if server else 'store'} answers at {masked(uri)} ({reason}); start it, as with "
            "'mlflow server', or set tracking.uri to another, such as sqlite:////data/mlflow.db"
        )
    message = masked(str(error).splitlines()[0] if str(error) else type(error).__name__)
    if server and re.search(r"error code 40[13]\b", message):
        return (
            f"the MLflow server at {masked(uri)} refuses the credentials; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if server and re.search(r"error code 404\b|not in a valid JSON format", message):
        return f"{masked(uri)} answers, but not as an MLflow server; correct tracking.uri"
    overload = re.search(r"too many (\d+) error responses", message)
    if server and overload:
        return f"the MLflow server at {masked(uri)} fails with HTTP status {overload[1]}; its log tells why"
    return f"cannot {doing} in MLflow at {masked(uri)}: {textwrap.shorten(message, 400, placeholder=' ...')}"


def _sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI; None for another store."""
    path = uri.partition("?")[0].removeprefix("sqlite:///")
    return Path(path) if uri.startswith("sqlite:///") and path else None


def _check_sqlite(file: Path) -> None:
    """Finds here, at once, what MLflow would try ten times before it complains."""
    remedy = "set tracking.uri to a file in a folder that can be written, such as sqlite:////data/mlflow.db"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            with file.open("r+b") as stream:
                header = stream.read(16)
        elif os.access(file.parent, os.W_OK):
            header = b""
        else:
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise TrackingError(f"the MLflow store {file} cannot be written ({error.strerror}); {remedy}") from None
    if header and header != b"SQLite format 3\0":
        raise TrackingError(f"{file} is not a SQLite file, so it cannot be MLflow's store; {remedy}")


def _create_sqlite(file: Path) -> None:
    """Makes MLflow's tables in a file of another name first, so that the store is complete or invisible.

    MLflow itself makes them in place, which fails when two runs start in a new folder at the same time.
    """
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as scratch:
        complete = Path(scratch, file.name)
        _client(f"sqlite:///{complete}").search_experiments(max_results=1)
        try:
            os.link(complete, file)
        except FileExistsError:
            pass  # another run was first
        except OSError:  # a file system without hard links
            complete.rename(file)


def _check_database_host(uri: str) -> None:
    """Likewise for a database server: an OSError now instead of minutes of retries."""
    parts = urlsplit(uri)
    port = parts.port or DATABASE_PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname and port and not parts.scheme.startswith("http"):
        socket.create_connection((parts.hostname, port), timeout=TIMEOUT_S).close()


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        file = _sqlite_file(uri)
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


def _kept_run(client: MlflowClient, run_id_file: Place) -> Run | None:
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


def _log_params(client: MlflowClient, run: Run, config: RunConfig) -> None:
    from mlflow.entities import Param, RunTag

    params = {tracked_name(key): _value(key, value)[:MAX_PARAM] for key, value in flatten(config).items()}
    logged = run.data.params
    new = [Param(key, value) for key, value in params.items() if key not in logged]
    for first in range(0, len(new), PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=new[first : first + PARAMS_PER_BATCH])
    changed = [RunTag(f"resumed.{key}"[:MAX_NAME], v[:MAX_TAG]) for key, v in params.items() if logged.get(key, v) != v]
    if changed:
        client.log_batch(run.info.run_id, tags=changed)


def _value(key: str, value: Any) -> str:
    """A value as text, without secrets."""
    if value and _SECRET_KEY.search(key.lower()):
        return MASK
    return masked(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and value != value else value


def _tags(config: RunConfig) -> dict[str, str]:
    tags = {"strategy": config.mix.strategy, "seed": str(config.seed), "hbt_version": hbt_ray.__version__}
    if config.mix.strategy == "hybrid":
        tags["alpha"] = str(config.mix.alpha)
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


def _save_model(model_dir: Path, folder: Path, description: Any) -> None:
    """An MLflow model folder around a sentence-transformers one. Its requirements are stated, not inferred by a run."""
    from sentence_transformers import SentenceTransformer

    packages = ("mlflow", "sentence-transformers", "transformers", "tokenizers", "torch")
    with _no_chatter():
        import mlflow.sentence_transformers

        mlflow.sentence_transformers.save_model(
            SentenceTransformer(str(model_dir), device="cpu", local_files_only=True),
            str(folder),
            mlflow_model=description,
            pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in packages],
            create_model_card=False,
        )


@contextlib.contextmanager
def _no_chatter() -> Iterator[None]:
    """Without progress bars for a second's work, and without MLflow's warnings about its own types."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
