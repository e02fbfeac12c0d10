"""Benchmarks fetched from the Hugging Face hub by their name, kept and checked on this machine."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from hbt_ray.data.benchmarks import miracl, mldr, mrtydi
from hbt_ray.data.language_resources import MIRACL_PASSAGES
from hbt_ray.errors import CorpusError
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.storage import file_sha256

SUMS = "sha256.json"


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of one data set on the hub; `{part}` and `{split}` stand for what is asked for.

    `{language}` is the part as Mr. TyDi names languages, "swahili".
    """

    repository: str
    files: tuple[str, ...]
    folder: str = ""  # below the benchmark's own


SOURCES = {
    "miracl": (
        HubFiles(
            "miracl/miracl",
            (
                "miracl-v1.0-{part}/topics/topics.miracl-v1.0-{part}-{split}.tsv",
                "miracl-v1.0-{part}/qrels/qrels.miracl-v1.0-{part}-{split}.tsv",
            ),
        ),
        HubFiles("miracl/miracl-corpus", ("miracl-corpus-v1.0-{part}/docs-*.jsonl.gz",)),
    ),
    "mrtydi": (
        HubFiles("castorini/mr-tydi", ("mrtydi-v1.1-{language}/{split}.jsonl.gz",)),
        HubFiles("castorini/mr-tydi-corpus", ("mrtydi-v1.1-{language}/corpus.jsonl.gz",)),
    ),
    "mldr": (HubFiles("Shitao/MLDR", ("mldr-v1.0-{part}/corpus.jsonl.gz", "mldr-v1.0-{part}/{split}.jsonl.gz")),),
    "beir": (
        HubFiles("BeIR/{part}", ("corpus.jsonl.gz", "queries.jsonl.gz")),
        HubFiles("BeIR/{part}-qrels", ("{split}.tsv",), "qrels"),
    ),
}
LANGUAGES = {"miracl": tuple(MIRACL_PASSAGES), "mrtydi": tuple(mrtydi.NAMES.values()), "mldr": mldr.LANGUAGES}
SPLITS = {"miracl": miracl.SPLIT, "mrtydi": mrtydi.SPLIT, "mldr": mldr.SPLIT, "beir": "test"}  # usually reported


def can_be_fetched(name: str) -> bool:
    """Whether a benchmark's name says what to fetch: `miracl/sw`, not `miracl`."""
    family, _, part = name.partition("/")
    return family in SOURCES and bool(part)


def fetch(name: str, split: str | None = None) -> str:
    """The folder of a benchmark that is on the hub, fetched where it is not on this machine.

    It is kept below HBT_BENCHMARKS, by default `~/.cache/hbt_ray/benchmarks`, with a checksum of every file.

    Raises:
        CorpusError: there is no such language, the hub does not answer or lacks the files, or what is kept has changed.
    """
    family, _, part = name.partition("/")
    if part not in LANGUAGES.get(family, (part,)):
        raise CorpusError(
            f"there is no benchmark {name!r}; languages of {family}: {', '.join(sorted(LANGUAGES[family]))}"
        )
    split = split or SPLITS[family]
    home = Path(os.environ.get("HBT_BENCHMARKS") or "~/.cache/hbt_ray/benchmarks").expanduser()
    folder = home / f"{family}-{part}-{split}"
    if (folder / SUMS).exists():
        _check(folder)
        return str(folder)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    language = next((name for name, code in mrtydi.NAMES.items() if code == part), part)
    for source in SOURCES[family]:
        repository = source.repository.format(part=part)
        wanted = [file.format(part=part, split=split, language=language) for file in source.files]
        location = folder / source.folder
        try:
            snapshot_download(repository, repo_type="dataset", allow_patterns=wanted, local_dir=location)
        except (OSError, ValueError, HfHubHTTPError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorpusError(
                f"the benchmark {name!r} cannot be fetched from {repository} ({reason}); "
                f"fetch it by hand and write {name}=FOLDER"
            ) from None
        missing = next((pattern for pattern in wanted if not list(location.glob(pattern))), None)
        if missing is not None:
            raise CorpusError(f"{repository} has no {missing}; write another part or split than {name!r}, {split!r}")
    _note(folder)
    return str(folder)


def _files(folder: Path) -> list[Path]:
    """What was fetched, without what the hub's library keeps beside it."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SUMS)
    return [path for path in paths if ".cache" not in path.relative_to(folder).parts]


def _note(folder: Path) -> None:
    sums = {str(path.relative_to(folder)): file_sha256(path) for path in _files(folder)}
    atomic_write_text(folder / SUMS, json.dumps(sums, indent=1))


def _check(folder: Path) -> None:
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        changed = next((file for file, known in sums.items() if file_sha256(folder / file) != known), None)
    except (OSError, ValueError, AttributeError) as error:
        raise CorpusError(
            f"the benchmark in {folder} cannot be checked ({error}); delete it to fetch it anew"
        ) from None
    if changed is not None:
        raise CorpusError(f"{folder / changed} is not as it was fetched; delete {folder} to fetch it anew")
