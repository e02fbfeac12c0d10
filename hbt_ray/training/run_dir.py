"""The paths of a run: in its storage what a resumed run needs, in its folder what it produces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hbt_ray.config import PretrainRunConfig, RunConfig, dump_config
from hbt_ray.errors import ConfigError
from hbt_ray.utils.storage import StoragePath

AnyRun = RunConfig | PretrainRunConfig

# Names of what a run writes. `run.yaml` is the first to be written, and the last to be set aside.
STORAGE_OUTPUTS = (
    *("run.yaml", "inputs.json", "measured_with.json", "mlflow_run_id"),
    *("checkpoints", "measured", "ray_train"),
)
LOSSES_OF_PRETRAINING = ("perplexity.json", "held_out_loss.json")
FOLDER_OUTPUTS = (
    *("initial_model", "model", "evaluation", *LOSSES_OF_PRETRAINING),
    "completed.json",
    *("unsent_metrics.jsonl", "stacks.txt"),
)


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of one run."""

    path: Path
    storage: StoragePath  # `path` itself, or a folder of an object store, which survives the loss of this machine

    @property
    def config(self) -> StoragePath:
        """The run's configuration; its existence means that the folder holds a run."""
        return self.storage / "run.yaml"

    @property
    def inputs(self) -> StoragePath:
        """The digests of what the run was trained on and started from."""
        return self.storage / "inputs.json"

    @property
    def evaluated_with(self) -> StoragePath:
        """What the metrics of evaluated checkpoints depend on."""
        return self.storage / "measured_with.json"

    @property
    def tracking_id(self) -> StoragePath:
        """The id of the MLflow run."""
        return self.storage / "mlflow_run_id"

    @property
    def checkpoints(self) -> StoragePath:
        """The checkpoints, each in a folder."""
        return self.storage / "checkpoints"

    @property
    def checkpoint_metrics(self) -> StoragePath:
        """The metrics of evaluated checkpoints, each in a file."""
        return self.storage / "measured"

    @property
    def scratch(self) -> StoragePath:
        """What Ray Train writes; deleted when it ends."""
        return self.storage / "ray_train"

    @property
    def initial_model(self) -> Path:
        """The untrained encoder, if the configuration names no encoder."""
        return self.path / "initial_model"

    @property
    def model(self) -> Path:
        """The trained encoder, a sentence-transformers folder."""
        return self.path / "model"

    @property
    def evaluations(self) -> Path:
        """A folder for each benchmark, with the report's files."""
        return self.path / "evaluation"

    @property
    def stores(self) -> Path:
        """Token stores, shared by all runs in the same parent folder."""
        return self.path.parent / "stores"

    @property
    def outputs(self) -> list[StoragePath]:
        """All that a run writes, `run.yaml` first."""
        folder = StoragePath.of(self.path)
        return [*(self.storage / name for name in STORAGE_OUTPUTS), *(folder / name for name in FOLDER_OUTPUTS)]

    def sibling(self, name: str) -> RunDir:
        """Return the paths of the run in a folder next to this one's."""
        storage = replace(self.storage, path=self.storage.path.rpartition("/")[0])
        return RunDir(self.path.parent / name, storage / name)

    def write_config(self, config: AnyRun) -> None:
        """Write the configuration, after all checks that are possible before training."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.config.write_text(dump_config(config))


def run_dir_of(config: AnyRun, out: str | Path, root: Path | None = None) -> RunDir:
    """Return the paths of a run. Raises ConfigError if `storage` is not a folder or a URI of an object store.

    Args:
        config: of the run.
        out: its folder.
        root: folder of the study or search that the run belongs to. In `storage`, the run has the same path below it.
    """
    try:
        path = Path(out).expanduser().resolve()
    except (ValueError, RuntimeError) as error:  # a NUL in the run's name, or no home
        raise ConfigError(f"{str(out)!r} cannot be a folder ({error}); write another --out") from None
    if not config.storage:
        return RunDir(path, StoragePath.of(path))
    name = path.relative_to(root.resolve().parent).as_posix() if root else path.name
    return RunDir(path, StoragePath.of(config.storage) / name)
