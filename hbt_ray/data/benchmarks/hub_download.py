"""Download benchmarks from the Hugging Face hub by their names, and check the stored files."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hbt_ray.data.benchmarks.base import HubSource
from hbt_ray.data.corpora.file_discovery import CHECKSUMS
from hbt_ray.errors import CorpusError
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.digests import damaged_file, file_checksums
from hbt_ray.utils.file_names import file_name
from hbt_ray.utils.limits import load_json
from hbt_ray.utils.progress import stage


def download_benchmark(name: str, source: HubSource, split: str | None = None) -> str:
    """Return the folder of a benchmark on the hub, after a download if it is not stored on this machine.

    It is stored below HBT_BENCHMARKS, by default `~/.cache/hbt_ray/benchmarks`, with a checksum of every file.

    Args:
        name: such as `miracl/sw`.
        source: the files to download.
        split: None: the one for which results are usually published.

    Raises:
        CorpusError: there is no such language, the hub does not respond or lacks the files, or the stored files have
            changed.
    """
    family, _, part = name.partition("/")
    if source.languages is not None and part not in source.languages:
        raise CorpusError(
            f"there is no benchmark {name!r}; languages of {family}: {', '.join(sorted(source.languages))}"
        )
    split = split or source.split
    home = Path(os.environ.get("HBT_BENCHMARKS") or "~/.cache/hbt_ray/benchmarks").expanduser()
    folder = home / f"{family}-{file_name(part)}-{file_name(split)}"
    if (folder / CHECKSUMS).exists():
        _verify_checksums(folder)
        return str(folder)
    with stage(f"fetching {name} from the hub"):
        _download(name, source, split, folder)
    _write_checksums(folder)
    return str(folder)


def _download(name: str, source: HubSource, split: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    part = name.partition("/")[2]
    language = (source.languages or {}).get(part, part)
    for files in source.files:
        repository = files.repository.format(part=part)
        patterns = [file.format(part=part, split=split, language=language) for file in files.files]
        target = folder / files.folder
        try:
            snapshot_download(repository, repo_type="dataset", allow_patterns=patterns, local_dir=target)
        except (OSError, ValueError, HfHubHTTPError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorpusError(
                f"the benchmark {name!r} cannot be fetched from {repository} ({reason}); "
                f"fetch it by hand and write {name}=FOLDER"
            ) from None
        missing = next((pattern for pattern in patterns if not list(target.glob(pattern))), None)
        if missing is not None:
            raise CorpusError(f"{repository} has no {missing}; write another part or split than {name!r}, {split!r}")


def _downloaded_files(folder: Path) -> list[Path]:
    """List the benchmark's files, without the cache files of the hub's library."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CHECKSUMS)
    return [path for path in paths if ".cache" not in path.relative_to(folder).parts]


def _write_checksums(folder: Path) -> None:
    """Write the checksums, last of all files, so that their existence means that the download is complete."""
    sums = file_checksums(folder, (str(path.relative_to(folder)) for path in _downloaded_files(folder)))
    atomic_write_text(folder / CHECKSUMS, json.dumps(sums, indent=1))


def _verify_checksums(folder: Path) -> None:
    try:
        sums = load_json((folder / CHECKSUMS).read_text(encoding="utf-8"))
        changed = damaged_file(folder, sums)
    except (OSError, ValueError, AttributeError) as error:
        raise CorpusError(
            f"the benchmark in {folder} cannot be checked ({error}); delete it to fetch it anew"
        ) from None
    if changed is not None:
        raise CorpusError(f"{folder / changed} is not as it was fetched; delete {folder} to fetch it anew")
