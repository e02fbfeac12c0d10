"""A command on a full disk ends with one sentence and leaves earlier results; with space, the same command ends well.

Each disk is filled `HBT_FAULT_TIMES` times, to different sizes; see `test_fault_tolerance.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from hbt_ray.config import dump_config
from hbt_ray.training.checkpoint import validate_checkpoint
from tests.helpers import tiny_corpus
from tests.helpers.small_disk import SmallDisk, small_disk
from tests.integration.conftest import tiny_config, write_corpus
from tests.integration.fault_injection import (
    TIMES,
    contents,
    finish_command,
    injects_faults,
    newest_step,
    repeated_steps,
    start_command,
)

pytestmark = injects_faults
SHARES = [(2 * time_ + 1) / (2 * max(TIMES, 1)) for time_ in range(TIMES)]  # of the space that the command takes
REPORT_FILES = ("report.json", "*.parquet", "*.csv", "*.trec", "*.png", "*.md")


def fails_for_lack_of_space(words: list[object], disk: SmallDisk) -> str:
    """Call a command whose error must be one sentence that names a path on the disk; return its stderr."""
    errors = finish_command(start_command(words), code=2)
    [line] = [line for line in errors.splitlines() if line.startswith("hbt: ")]
    print(f"\n{line}")
    assert str(disk.folder) in line
    assert "no space left" in line.lower()
    return errors


def succeeds(*words: object) -> str:
    return finish_command(start_command(words))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def report(command: str, outcomes: list[object]) -> None:
    print(f"\nfull disk, {command}: {len(outcomes)} sizes; {outcomes}")


def test_full_disk_in_prepare_leaves_the_other_stores(dashboard, tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config(write_corpus(tmp_path, items=range(600)))))
    words: list[object] = ["prepare", "--config", tmp_path / "config.yaml"]
    succeeds(*words, "--out", tmp_path / "reference")
    reference = bytes_of(tmp_path / "reference")
    with small_disk(tmp_path / "disk") as disk:
        stores = disk.folder / "stores"
        succeeds(*words, "text.max_query_tokens=12", "--out", stores)
        [earlier] = stores.iterdir()
        before = bytes_of(earlier)
        size = disk.used
        for share in SHARES:
            disk.leave(int(share * size))
            fails_for_lack_of_space([*words, "--out", stores], disk)
            assert bytes_of(earlier) == before
            disk.make_space()
            succeeds(*words, "--out", stores)
            [new] = (path for path in stores.iterdir() if path.is_dir() and path != earlier)
            assert bytes_of(new) == {str(Path(name).relative_to(new.name)): file for name, file in reference.items()}
            shutil.rmtree(new)
    report("prepare", [f"{share:.0%}" for share in SHARES])


def test_full_disk_in_evaluate_leaves_the_earlier_report(dashboard, tmp_path):
    corpus = write_corpus(tmp_path)
    for name, seed in (("model", 0), ("other", 1)):
        tiny_corpus.make_encoder(tmp_path / name, seed=seed)
    words: list[object] = ["evaluate", "--benchmark", f"pairs={corpus}", "--out"]
    new_words = [*words, tmp_path / "disk", "--model", tmp_path / "model"]
    succeeds(*words, tmp_path / "reference", "--model", tmp_path / "model")
    succeeds(*words, tmp_path / "earlier", "--model", tmp_path / "other")
    before = bytes_of(tmp_path / "earlier")
    with small_disk(tmp_path / "disk") as disk:
        shutil.copytree(tmp_path / "earlier", disk.folder, dirs_exist_ok=True)
        size = disk.used
        for share in SHARES:
            disk.leave(int(share * size))
            fails_for_lack_of_space(new_words, disk)
            assert bytes_of(disk.folder) == before
            disk.make_space()
            succeeds(*new_words)
            assert contents(disk.folder, REPORT_FILES) == contents(tmp_path / "reference", REPORT_FILES)
            shutil.copytree(tmp_path / "earlier", disk.folder, dirs_exist_ok=True)
    report("evaluate", [f"{share:.0%}" for share in SHARES])


def test_full_disk_in_train_keeps_complete_checkpoints(dashboard, tmp_path):
    """Only the run's folder is on the disk: neither the store nor MLflow's."""
    train = {"steps": 20, "checkpoint_every": 2, "max_failures": 0, "checkpoints_kept": 4}
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config(write_corpus(tmp_path), train=train)))
    words: list[object] = ["train", "--config", tmp_path / "config.yaml", "--out"]
    succeeds(*words, tmp_path / "reference")
    expected = (tmp_path / "reference/model/model.safetensors").read_bytes()
    outcomes = []
    with small_disk(tmp_path / "disk") as disk:
        shutil.copytree(tmp_path / "reference", disk.folder, dirs_exist_ok=True)
        size = disk.used
        for share in SHARES:
            for path in disk.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            disk.leave(int(share * size))
            fails_for_lack_of_space([*words, disk.folder], disk)
            step = newest_step(disk.folder)
            outcomes.append(f"{share:.0%}: step {step} kept")
            complete = [file.parent for file in disk.folder.glob("checkpoints/*/complete.json")]
            assert all(validate_checkpoint(folder) is None for folder in complete)
            disk.make_space()
            errors = succeeds(*words, disk.folder)
            assert (f"resuming from the checkpoint of step {step} " in errors) == (0 < step < 20)
            assert (disk.folder / "model/model.safetensors").read_bytes() == expected
            repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", disk.folder, 20)
        # A run that is to replace this one needs space for its first checkpoint, without which this one is kept.
        before = bytes_of(disk.folder)
        checkpoint = sum(len(content) for name, content in before.items() if "step-000000020" in name)
        for share in SHARES:
            disk.leave(int(share * checkpoint))
            fails_for_lack_of_space([*words, disk.folder, "--fresh"], disk)
            assert bytes_of(disk.folder) == before
    report("train", outcomes)
