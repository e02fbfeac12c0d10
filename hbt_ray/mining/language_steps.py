"""Mining of one language in steps, each of which may be a task of its own: results are files, and no step redoes one.

Legend: N rows, P candidate passages, D width.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from hbt_ray.data.decontamination import is_near_duplicate
from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.evaluation.constant_vectors import constant_vector_warning
from hbt_ray.evaluation.evaluator import Embedder
from hbt_ray.mining.corpus_rows import read_arrays, write_arrays
from hbt_ray.mining.language_index import LanguageIndex
from hbt_ray.mining.negative_selection import hard_negatives
from hbt_ray.mining.output_dir import MiningRun, storage_errors
from hbt_ray.retrieval.embedding_cache import EmbeddingCache, VectorPart, write_cache_manifest, write_embedding_shard
from hbt_ray.retrieval.exact_scores import check_vectors, exact_scores
from hbt_ray.retrieval.passage_windows import TEXTS_PER_CHUNK
from hbt_ray.utils.atomic_write import atomic_file, atomic_folder
from hbt_ray.utils.digests import JsonObject, file_checksums, with_checksum
from hbt_ray.utils.file_names import file_name
from hbt_ray.utils.limits import load_json
from hbt_ray.utils.storage import StoragePath, file_sha256

Side = Literal["questions", "passages"]
SIDES: tuple[Side, Side] = ("questions", "passages")
ROWS_PER_SHARD = 1 << 14  # mined by one task
CHUNKS_PER_TASK = 8  # of TEXTS_PER_CHUNK texts, embedded by one task
_POOL, _SHARD, _SCORES = "pool.npy", "shard.json", "scores.arrow"
_VECTORS_COPIED = 1 << 16
_CACHED_TEXTS = 1 << 14  # normalised: passages that rank first for one question do so for others
_SAMPLED_TEXTS = 100


def mine_language(mining: MiningRun, language: str, embed: Embedder) -> None:
    """Do all steps of a language in this process, one after the other.

    1. `index_language`: sort its rows, and collect the passages that may be negatives, each distinct text once.
    2. `embed_texts`: embed the distinct questions and passages, in chunks.
    3. `join_vectors`: write the vectors of the candidates to one file.
    4. `mine_shard`: select the negatives of some questions, and write their rows.
    5. `finish_language`: join the rows' files; write the summary, whose existence means that the language is finished.

    Raises:
        StorageError: they cannot be written.
        UserError: the vectors hold NaN.
    """
    index_language(mining, language)
    for side, first in embedding_parts(mining, language):
        embed_texts(mining, language, side, first, embed)
    join_vectors(mining, language)
    for number in range(count_shards(mining, language)):
        mine_shard(mining, language, number)
    finish_language(mining, language)


def index_language(mining: MiningRun, language: str) -> None:
    """Write the index of a language."""
    with _step(mining, language, "index") as folder:
        if folder is not None:
            LanguageIndex.write(mining.partial, language, folder)


def embedding_parts(mining: MiningRun, language: str) -> list[tuple[Side, int]]:
    """List the arguments `side` and `first` of `embed_texts` for all texts of a language."""
    index = _index(mining, language)
    texts_per_task = TEXTS_PER_CHUNK * CHUNKS_PER_TASK
    sizes = (index.questions.num_rows, index.passages.num_rows)
    return [(side, first) for side, size in zip(SIDES, sizes, strict=True) for first in range(0, size, texts_per_task)]


def embed_texts(mining: MiningRun, language: str, side: Side, first: int, embed: Embedder) -> None:
    """Embed CHUNKS_PER_TASK chunks of distinct texts, from text `first` on; a chunk is a file of vectors.

    The chunks are those of `WindowedPassages.chunks`: a vector's last bits depend on the other texts of its chunk.
    """
    texts = getattr(_index(mining, language), side).column("text")
    embed_side = embed.queries if side == "questions" else embed.passages
    folder = mining.work_of(language) / side
    with _step(mining, language, f"{side}-{first}.done") as marker:
        if marker is None:
            return
        folder.mkdir(exist_ok=True)
        for start in range(first, min(first + TEXTS_PER_CHUNK * CHUNKS_PER_TASK, len(texts)), TEXTS_PER_CHUNK):
            vectors = np.asarray(embed_side(texts.slice(start, TEXTS_PER_CHUNK).to_pylist()), np.float32)
            check_vectors(*((vectors, vectors[:0]) if side == "questions" else (vectors[:0], vectors)))
            write_embedding_shard(folder, start // TEXTS_PER_CHUNK, vectors)
        marker.touch()


def join_vectors(mining: MiningRun, language: str) -> None:
    """Write the manifests of the vectors, and the vectors of the candidates, (P, D), to one file that can be mapped."""
    index = _index(mining, language)
    if not index.rows.num_rows:
        return
    with _step(mining, language, _POOL) as file:
        if file is None:
            return
        for side in SIDES:
            size = getattr(index, side).num_rows
            _write_manifest(mining.work_of(language) / side, size)
        questions, passages = _vectors(mining, language)
        none = np.empty(0, np.int64)
        check_vectors(questions.take(none), passages.take(none))
        rows = index.column("passage")[index.pool_rows]
        pool = np.lib.format.open_memmap(file, "w+", np.float32, (len(rows), passages.width))
        for first in range(0, len(rows), _VECTORS_COPIED):
            pool[first : first + _VECTORS_COPIED] = passages.take(rows[first : first + _VECTORS_COPIED])
        pool.flush()


def _write_manifest(folder: Path, texts: int) -> None:
    files = sorted(folder.glob("part-*.arrow"))
    sizes = [min(TEXTS_PER_CHUNK, texts - first) for first in range(0, texts, TEXTS_PER_CHUNK)]
    parts = [VectorPart(file.name, size, file_sha256(file)) for file, size in zip(files, sizes, strict=True)]
    width = pa.ipc.open_file(pa.memory_map(str(files[0]))).schema.field("vector").type.list_size
    write_cache_manifest(folder, parts, width)


def count_shards(mining: MiningRun, language: str) -> int:
    """Return the number of calls of `mine_shard` that mine all questions of a language."""
    return -(-_index(mining, language).rows.num_rows // ROWS_PER_SHARD)


def mine_shard(mining: MiningRun, language: str, number: int) -> None:
    """Mine the negatives of ROWS_PER_SHARD questions, and write their rows, a file for each source."""
    index = _index(mining, language)
    first = number * ROWS_PER_SHARD
    rows, numbers = index.rows.slice(first, ROWS_PER_SHARD), index.column("passage")
    components, pool_rows = index.column("component"), index.pool_rows
    of_pool = components[pool_rows]
    texts = index.passages.column("text")
    normalized = functools.lru_cache(_CACHED_TEXTS)(lambda text: normalize_for_matching(texts[text].as_py()))

    def is_known(row: int, candidates: np.ndarray) -> np.ndarray:
        known: np.ndarray = of_pool[candidates] == components[first + row]
        return known

    def is_near(row: int, candidate: int) -> bool:
        gold, other = int(numbers[first + row]), int(numbers[pool_rows[candidate]])
        return is_near_duplicate(normalized(gold), normalized(other), mining.near_duplicate_threshold)

    with _step(mining, language, f"shard-{number:05}") as folder:
        if folder is None:
            return
        folder.mkdir()
        questions, passages = _vectors(mining, language)
        queries = questions.take(rows.column("question").to_numpy())
        gold = passages.take(rows.column("passage").to_numpy())
        pool = np.lib.format.open_memmap(mining.work_of(language) / _POOL, "r")
        each = np.arange(len(queries))
        gold_scores = exact_scores(queries, gold, each, each)
        found, scores = hard_negatives(queries, gold_scores, pool, mining.settings, is_known, is_near)
        negatives = ([texts[text].as_py() for text in numbers[pool_rows[of[of >= 0]]]] for of in found)
        sources = _write_rows(folder, _records(index, rows, negatives, language), rows.column("source").to_pylist())
        write_arrays(folder / _SCORES, gold=gold_scores, negatives=scores[found >= 0])
        fewer = int(np.count_nonzero((found < 0).any(axis=1)))
        (folder / _SHARD).write_text(json.dumps({"sources": sources, "items_with_fewer": fewer}), encoding="utf-8")


def finish_language(mining: MiningRun, language: str) -> None:
    """Join the files of all shards, write the summary, and delete what the steps have written."""
    work, index = mining.work_of(language), _index(mining, language)
    shards = [work / f"shard-{number:05}" for number in range(count_shards(mining, language))]
    described = [load_json((shard / _SHARD).read_text(encoding="utf-8")) for shard in shards]
    parts: dict[str, list[Path]] = {}
    for shard, one in zip(shards, described, strict=True):
        for source in one["sources"]:
            parts.setdefault(source, []).append(shard / file_name(source))
    files = [_join(mining.out, mining.file_of(source, language), pieces) for source, pieces in parts.items()]
    summary = {
        "items": index.rows.num_rows,
        "items_held_out": int(np.count_nonzero(~index.column("trained_on"))),
        "items_with_fewer": sum(one["items_with_fewer"] for one in described),
        "passages": len(index.pool_rows),
        **_scores_of(shards),
        "seconds": sum(load_json(mark.read_text())["seconds"] for mark in sorted(work.glob("*.seconds"))),
        "warnings": _warnings(mining, language, index) if shards else [],
        "files": file_checksums(mining.out, files),
    }
    StoragePath.of(mining.summary_of(language)).write_text(with_checksum(summary))
    shutil.rmtree(work, ignore_errors=True)


def _join(out: Path, file: Path, pieces: Iterable[Path]) -> str:
    """Write a file of several pieces, complete or not at all; return its name in the folder."""
    with storage_errors(out):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as partial, partial.open("wb") as joined:
            for piece in pieces:
                with piece.open("rb") as lines:
                    shutil.copyfileobj(lines, joined)
    return str(file.relative_to(out))


def _scores_of(shards: Iterable[Path]) -> JsonObject:
    gold, negatives = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    for shard in shards:
        scores = read_arrays(shard / _SCORES)
        gold.append(scores["gold"])
        negatives.append(scores["negatives"])
    of_gold, of_negatives = np.concatenate(gold), np.concatenate(negatives)
    return {
        "negatives": len(of_negatives),
        "mean_gold_score": _mean(of_gold),
        "mean_negative_score": _mean(of_negatives),
    }


def _mean(scores: np.ndarray) -> float | None:
    return float(scores.mean(dtype=np.float64)) if len(scores) else None


def _warnings(mining: MiningRun, language: str, index: LanguageIndex) -> list[str]:
    """Return the sentences of `constant_vector_warning`, from the vectors of evenly spaced texts."""
    questions, passages = _vectors(mining, language)
    effect = "the negatives are those that ties put first"
    warnings = []
    for side, vectors, rows in (
        ("queries", questions, np.arange(len(questions))),
        ("passages", passages, index.column("passage")[index.pool_rows]),
    ):
        sampled = rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLED_TEXTS).astype(int))] if len(rows) else rows
        of_sampled = vectors.take(sampled)
        warnings.append(constant_vector_warning(side, list(map(str, sampled)), of_sampled.__getitem__, effect))
    return [warning for warning in warnings if warning is not None]


@contextlib.contextmanager
def _step(mining: MiningRun, language: str, name: str) -> Iterator[Path | None]:
    """Yield the temporary path of what a step writes, which then gets its name; None if an earlier call wrote it.

    The seconds of the step are written to a file next to it.
    """
    path = mining.work_of(language) / name
    if path.exists():
        yield None
        return
    began_s = time.perf_counter()
    with storage_errors(mining.out):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(path) as partial:
            yield partial
        path.with_name(f"{name}.seconds").write_text(with_checksum({"seconds": time.perf_counter() - began_s}))


def _index(mining: MiningRun, language: str) -> LanguageIndex:
    return LanguageIndex.open(mining.work_of(language) / "index")


def _vectors(mining: MiningRun, language: str) -> tuple[EmbeddingCache, EmbeddingCache]:
    """Open the vectors of the questions and of the passages."""
    questions, passages = (EmbeddingCache(mining.work_of(language) / side) for side in SIDES)
    return questions, passages


def _records(
    index: LanguageIndex, rows: pa.Table, negatives: Iterable[list[str]], language: str
) -> Iterator[dict[str, object]]:
    questions, passages = index.questions.column("text"), index.passages.column("text")
    for row, of_row in zip(rows.to_pylist(), negatives, strict=True):
        record: dict[str, object] = {
            "id": row["item_id"],
            "language": language,
            "question": questions[row["question"]].as_py(),
            "context": passages[row["passage"]].as_py(),
            "negatives": of_row,
        }
        if row["answer"] is not None:
            record |= {"answer_text": row["answer"], "answer_start": row["answer_start"]}
        yield record


def _write_rows(folder: Path, records: Iterator[dict[str, object]], sources: list[str]) -> list[str]:
    """Write JSON Lines, a file for each source; return the sources, in the order of the rows."""
    written = []
    for source, rows in itertools.groupby(sources):
        with (folder / file_name(source)).open("w", encoding="utf-8", newline="\n") as lines:
            for record in itertools.islice(records, len(list(rows))):
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        written.append(source)
    return written
