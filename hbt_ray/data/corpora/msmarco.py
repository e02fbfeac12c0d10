"""MS MARCO and its translations: a collection, queries, and which passages answer or do not answer which query.

Files, anywhere below the folder and gzipped or not; `LANGUAGE` is a code or an English name and may be absent:

- `[LANGUAGE_]collection.tsv`: passage id, text;
- `[LANGUAGE_]queries.[SPLIT.]tsv`: query id, text;
- one of `triples*.tsv`: query id, id of a passage that answers, id of one that does not; or `qrels*.tsv`: query id, 0,
  passage id, grade, which is above 0 if the passage answers. Both if they have the split in their names. Triples are
  preferred, since they have hard negatives.

An item is a query with a passage, and the same in all languages: "1185869-0". Only the texts that a shard's pairs need
are in memory.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import check_languages, existing_path
from hbt_ray.data.text_files import Fault, check_inside, read_lines, rejected_row
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils.language_codes import language_by_english_name, language_code
from hbt_ray.utils.logging import warn_once

_logger = logging.getLogger(__name__)
_BYTES_PER_SHARD = 1 << 28  # of the file of pairs
_SUFFIX = r"\.tsv(\.gz)?"
_GRADE = re.compile(r"-?[0-9]+(\.[0-9]*)?")
_SPLITS = {"train", "dev", "test", "eval"}

Pairs = dict[tuple[str, str], list[str]]  # (query id, passage id) -> ids of passages that do not answer


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List the shards by language and part of the queries.

    Raises:
        CorpusError: there are no pairs, no language with a collection and queries, or a language is missing.
    """
    root = existing_path(corpus.name, corpus.path)
    files = sorted(path for path in root.rglob("*") if path.is_file() and re.search(_SUFFIX + "$", path.name))
    for path in files:
        check_inside(path, root)
    collections = _by_language(corpus, files, "collection")
    queries = _by_language(corpus, files, "queries")
    pairs = _pairs_file(corpus, files)
    found = sorted(collections.keys() & queries.keys())
    if not found:
        raise CorpusError(
            f"the corpus {corpus.name!r} at {str(root)!r} has collections in "
            f"{', '.join(collections) or 'no language'} and queries in {', '.join(queries) or 'no language'}; "
            f"both are needed, such as english_collection.tsv and "
            f"english_queries.{corpus.split}.tsv, or without a language in the names and with language: en"
        )
    check_languages(corpus.name, root, corpus.languages, found)
    parts = -(-max(pairs.stat().st_size, 1) // _BYTES_PER_SHARD)
    return [
        CorpusShard(
            corpus.format,
            corpus.name,
            str(pairs),
            language,
            other_files=(str(collections[language]), str(queries[language])),
            options={"part": (part, parts), "max_negatives": corpus.max_negatives},
        )
        for language in (found if corpus.languages is None else sorted(corpus.languages))
        for part in range(parts)
    ]


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row for each pair of a query and a passage, in the order of the file; a reject for a missing text."""
    assert shard.language is not None
    rejects: list[RejectedRow] = []
    pairs = _read_pairs(shard, rejects)
    collection, queries = shard.other_files
    passage_ids = {passage for _, passage in pairs}.union(*pairs.values())
    texts = _read_texts(shard, Path(queries), {query for query, _ in pairs}, rejects)
    passages = _read_texts(shard, Path(collection), passage_ids, rejects)
    if shard.options["part"][0] == 0:  # every part of a language reads the same files
        yield from rejects
    name = Path(shard.location).name
    for (query_id, passage_id), negatives in pairs.items():
        location = f"{name}:{query_id}-{passage_id}"
        missing = [text_id for text_id in (passage_id, *negatives) if text_id not in passages]
        if query_id not in texts:
            yield rejected_row(shard.source, location, "missing question", f"query {query_id} in {shard.language}")
        elif missing:
            yield rejected_row(shard.source, location, "missing passage", f"passage {missing[0]} in {shard.language}")
        else:
            yield CorpusRow(
                shard.source,
                f"{query_id}-{passage_id}",
                shard.language,
                texts[query_id],
                passages[passage_id],
                tuple(passages[negative] for negative in negatives),
                location,
            )


def looks_like_msmarco(names: Sequence[str]) -> bool:
    """Return True if the names of files include a collection and queries."""
    return all(any(re.search(rf"{kind}\b.*{_SUFFIX}$", name) for name in names) for kind in ("collection", "queries"))


def _by_language(corpus: CorpusConfig, files: Sequence[Path], kind: str) -> dict[str, Path]:
    """Map languages to the files of a kind, "collection" or "queries", of the corpus' split if their names have one."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        match = re.fullmatch(rf"(?:(.+)[._-])?{kind}([._-].*)?{_SUFFIX}", path.name)
        if match is None or not _is_of_split(path, corpus.split):
            continue
        named = match[1]
        language = corpus.language if named is None else language_code(named) or language_by_english_name(named)
        if language is None:
            raise CorpusError(
                f"corpus {corpus.name!r}: the name of {path.name} has no language; write language: en, or rename it to "
                f"english_{path.name}"
            )
        found[language].append(path)
    for language, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths[:2])
            raise CorpusError(f"corpus {corpus.name!r}: {names} are both {kind} in {language}; keep one")
    return {language: paths[0] for language, paths in sorted(found.items())}


def _is_of_split(path: Path, split: str) -> bool:
    """Return True unless the name of a file or its folder is that of another split."""
    words = {*re.split(r"[._-]", path.name), path.parent.name}
    return not words & _SPLITS or split in words


def _pairs_file(corpus: CorpusConfig, files: Sequence[Path]) -> Path:
    """Return the file of triples of ids, or of judgements, of the corpus' split. Raises CorpusError."""
    for kind in ("triples", "qrels"):
        found = [path for path in files if kind in path.name and _is_of_split(path, corpus.split)]
        if len(found) > 1:
            names = " and ".join(path.name for path in found[:2])
            raise CorpusError(f"corpus {corpus.name!r}: {names} both have {kind}; keep one")
        if found:
            return found[0]
    raise CorpusError(
        f"the corpus {corpus.name!r} at {str(corpus.path)!r} has neither triples of ids nor judgements of the split "
        f"{corpus.split!r}; add triples.{corpus.split}.ids.tsv or qrels.{corpus.split}.tsv"
    )


def _read_pairs(shard: CorpusShard, rejects: list[RejectedRow]) -> Pairs:
    """Return the shard's part of the pairs, by a checksum of the query's id. Append lines of no ids to the rejects."""
    part, parts = shard.options["part"]
    most = shard.options["max_negatives"]
    path = Path(shard.location)
    has_triples = "triples" in path.name
    pairs: Pairs = {}
    left_out = 0
    for line in read_lines(path):
        if isinstance(line, Fault):
            rejects.append(line.reject(shard.source))
            continue
        fields = line.text.split()
        is_triple, is_judgement = len(fields) == 3 and has_triples, len(fields) == 4 and _GRADE.fullmatch(fields[3])
        if fields and not is_triple and not is_judgement:
            rejects.append(rejected_row(shard.source, line.location, "neither triple nor judgement", line.text))
        elif not fields or zlib.crc32(fields[0].encode()) % parts != part:
            continue
        elif is_judgement:  # query, 0, passage, grade
            if float(fields[3]) > 0:
                pairs.setdefault((fields[0], fields[2]), [])
        else:
            negatives = pairs.setdefault((fields[0], fields[1]), [])
            if fields[2] not in negatives:
                if len(negatives) < most:
                    negatives.append(fields[2])
                else:
                    left_out += 1
    of_parts = f" (part 1 of {parts})" if parts > 1 else ""
    if left_out and part == 0:
        warn_once(
            _logger,
            f"corpus {shard.source!r}: of each pair the first {most} hard negatives are read, and {left_out} lines of "
            f"{path.name}{of_parts} are not; max_negatives changes that",
        )
    return pairs


def _read_texts(shard: CorpusShard, path: Path, wanted: set[str], rejects: list[RejectedRow]) -> dict[str, str]:
    """Return the texts with these ids. Append unreadable lines to the rejects."""
    texts: dict[str, str] = {}
    for line in read_lines(path):
        if isinstance(line, Fault):
            rejects.append(line.reject(shard.source))
            continue
        text_id, _, text = line.text.partition("\t")
        if text_id in wanted and text.strip():
            texts[text_id] = text.strip()
    return texts
