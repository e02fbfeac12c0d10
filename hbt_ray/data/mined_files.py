"""Files of `hbt mine` that a corpus names by hand are compared with the checksums of the folder's summary."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from hbt_ray.errors import CorpusError
from hbt_ray.utils.digests import JsonObject, damaged_file, without_checksum

MINED = "mined.json"  # the summary of a folder of mined negatives, with the checksums of its files


def check_mined_files(corpus: str, files: Iterable[Path]) -> None:
    """Compare files with the summary of the mined folder that they are in, `FOLDER/SOURCE/LANGUAGE.jsonl`, if any.

    Raises:
        CorpusError: a file or the summary is not as it was written.
    """
    read_summary = functools.cache(lambda folder: _read_summary(corpus, folder))
    for file in dict.fromkeys(files):
        folder = file.parent.parent
        summary = read_summary(folder)
        name = str(file.relative_to(folder))
        known = {} if summary is None else summary.get("files", {})
        if name in known and damaged_file(folder, {name: known[name]}) is not None:
            raise CorpusError(
                f"the corpus {corpus!r} has {str(file)!r}, which is not as `hbt mine` wrote it; delete {str(folder)!r} "
                f"to mine again, or {MINED} in it to use the file as it is"
            )


def _read_summary(corpus: str, folder: Path) -> JsonObject | None:
    """Return the content of a folder's summary; None if there is none."""
    file = folder / MINED
    try:
        return without_checksum(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"the corpus {corpus!r} is in a mined folder whose {str(file)!r} is not as it was written ({error}); "
            f"delete {str(folder)!r} to mine again, or only that file to use the others as they are"
        ) from None
