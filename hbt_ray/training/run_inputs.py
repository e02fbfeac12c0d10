"""The contents that a run reads, as digests in its folder: a run resumes only with the same."""

from __future__ import annotations

from pathlib import Path

from hbt_ray.config import RunConfig
from hbt_ray.data.manifest import StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.training.run_dir import AnyRun, RunDir
from hbt_ray.utils.digests import changed_input, content_digest


def record_inputs(folder: RunDir, config: AnyRun, manifest: StoreManifest, *, root: Path | None = None) -> None:
    """Write digests of the contents that a run reads, or compare them with those of the run that its folder holds.

    Runs of earlier versions have no digests: they are written and not compared.

    Args:
        folder: of the run, which `open_run` has checked.
        config: of the run.
        manifest: of its token store.
        root: folder of the study that the run belongs to.

    Raises:
        ConfigError: the corpora, the encoder to start from, or the teacher has another content.
    """
    paths = {"model.path": config.model.path}
    if isinstance(config, RunConfig) and config.loss.distillation is not None:
        paths["loss.distillation.teacher"] = config.loss.distillation.teacher
    inputs = {key: content_digest(path) for key, path in paths.items() if path}
    inputs["corpora"] = manifest.content_fingerprint()
    changed = changed_input(folder.inputs, inputs, has_begun=folder.config.exists())
    if changed is not None:
        raise ConfigError(f"{folder.storage} holds a run whose {changed} had another content; {way_out(folder, root)}")


def way_out(folder: RunDir, root: Path | None) -> str:
    """Return what to do where a folder holds another run; `root` is the folder of the study that it belongs to."""
    if root is None:
        return "write another --out, or --fresh to start over"
    return f"write another --out, or delete {folder.storage} to start it over"
