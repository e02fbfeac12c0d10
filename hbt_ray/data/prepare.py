"""From rows as read to shards as stored: what each task of `prepare` does to the rows it is given.

All functions are pure and work on Arrow tables of `ROWS`, so that a cluster maps them over blocks and a test
calls them alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import hbt_ray
from hbt_ray.config import CorpusConfig, RunConfig
from hbt_ray.data.benchmarks import ReadOptions, load_benchmark
from hbt_ray.data.corpora import CorpusShard, read_shard
from hbt_ray.data.decontamination import DecontaminationIndex
from hbt_ray.data.text_normalization import clean_row, normalize_for_matching
from hbt_ray.data.token_store import Group, Split, StoreManifest, TokenItem, TokenStore, WrittenShard, write_shard
from hbt_ray.data.tokenizer import PairTokenizer, load_tokenizer
from hbt_ray.data.types import Benchmark, CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils.counter_rng import Salt, stable_hash64

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerFast

ROWS = pa.schema(
    [
        ("source", pa.string()),
        ("item_id", pa.string()),
        ("language", pa.string()),
        ("question", pa.string()),  # null in plain text
        ("passage", pa.string()),
        ("negatives", pa.list_(pa.string())),
        ("place", pa.string()),
        ("answer", pa.string()),
        ("answer_start", pa.int64()),  # in the passage; -1: not known
        ("pair_key", pa.int64()),  # equal where language, question and passage are, once normalised
        ("occurs_in_evaluation", pa.string()),  # how and which text; null where it does not
        ("rejected", pa.string()),  # the reason; null for a good row
        ("detail", pa.string()),
    ]
)
ROWS_PER_TABLE = 1024
UNREADABLE = "unreadable file"
REJECTS = "rejects.jsonl"
TOKENIZER = "tokenizer"  # its folder in a store
TOKENIZER_TEXTS = 200_000  # the most that a tokenizer is trained on


def read_rows(parts: Sequence[CorpusShard], evaluation: DecontaminationIndex | None) -> Iterator[pa.Table]:
    """Reads, cleans and checks every row of some parts; bad ones stay in the table with their reason."""
    read = itertools.chain.from_iterable(map(read_shard, parts))
    while rows := list(itertools.islice(read, ROWS_PER_TABLE)):
        yield _checked([clean_row(row) if isinstance(row, CorpusRow) else row for row in rows], evaluation)


def _checked(rows: Sequence[CorpusRow | RejectedRow], evaluation: DecontaminationIndex | None) -> pa.Table:
    good = [row for row in rows if isinstance(row, CorpusRow)]
    questions = _normalised([row.question or "" for row in good])
    passages = _normalised([row.passage for row in good])
    occurring = [None] * len(good) if evaluation is None else evaluation.find_all(questions)
    if evaluation is not None:
        occurring = [of_q or of_p for of_q, of_p in zip(occurring, evaluation.find_all(passages), strict=True)]
    # A negative is no part of what makes the item, so it goes alone.
    negatives = [text for row in good for text in row.negatives]
    occurs = iter([None] * len(negatives) if evaluation is None else evaluation.find_all(_normalised(negatives)))
    accepted = iter(
        {
            "source": row.source,
            "item_id": row.item_id,
            "language": row.language,
            "question": row.question,
            "passage": row.passage,
            "negatives": [text for text in row.negatives if next(occurs) is None],
            "place": row.location,
            "answer": row.answer,
            "answer_start": row.answer_start,
            "pair_key": _pair_key(row, question, passage),
            "occurs_in_evaluation": f"{found.kind}: {found.text[:100]}" if found else None,
        }
        for row, question, passage, found in zip(good, questions, passages, occurring, strict=True)
    )
    table = [_rejected(row) if isinstance(row, RejectedRow) else next(accepted) for row in rows]
    return pa.Table.from_pylist(table, ROWS)


def _normalised(texts: Sequence[str]) -> list[str]:
    return list(map(normalize_for_matching, texts))


def _pair_key(row: CorpusRow, question: str, passage: str) -> int:
    """Equal for pairs that say the same. Lines of plain text are never dropped as repeated: short ones often are."""
    said = (row.language, question, passage) if row.question is not None else (Salt.PLAIN_TEXT, row.source, row.item_id)
    return stable_hash64(*said) - 2**63


def _rejected(reject: RejectedRow) -> dict[str, Any]:
    return {
        "source": reject.source,
        "place": reject.location,
        "rejected": reject.reason,
        "detail": reject.detail,
    }


def count_rows(rows: pa.Table) -> dict[tuple[str, str, str], int]:
    """Rows of a table by (source, language, reason); a rejected row's language and a good one's reason are ''."""
    counts: Counter[tuple[str, str, str]] = Counter()
    columns = (rows.column(name).to_pylist() for name in ("source", "language", "rejected"))
    for source, language, reason in zip(*columns, strict=True):
        counts[source, language or "", reason or ""] += 1
    return dict(counts)


def rejects_of(rows: pa.Table) -> list[RejectedRow]:
    """The rejected rows of a table."""
    bad = rows.filter(pc.is_valid(rows.column("rejected")))
    columns = (bad.column(name).to_pylist() for name in ("source", "place", "rejected", "detail"))
    return [RejectedRow(*row) for row in zip(*columns, strict=True)]


def write_rejects(file: Path, rejects: Sequence[RejectedRow]) -> None:
    """Rejected rows as JSON Lines, in the same order however they were found."""
    ordered = sorted(rejects, key=lambda r: (r.source, r.location, r.reason))
    lines = [json.dumps(reject.record(), ensure_ascii=False) for reject in ordered]
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def check_rejects(rows_read: Mapping[str, int], rejects: Sequence[RejectedRow], max_share: float, file: Path) -> None:
    """Raises CorpusError where a source's share of bad rows is above what is allowed, or a whole file is lost.

    Args:
        rows_read: of each source, good and bad.
        file: where the rejects are written down.
    """
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for reject in rejects:
        reasons[reject.source][reject.reason] += 1
        if reject.reason == UNREADABLE:  # counts as one row, and may have held a language
            raise CorpusError(
                f"{reject.location} of corpus {reject.source!r} cannot be read ({reject.detail}); fetch it again"
            )
    for source in sorted(reasons):
        bad = reasons[source].total()
        if bad / rows_read[source] > max_share:  # divided, as 0.29 * 100 is less than 29
            reason, rows = reasons[source].most_common(1)[0]
            raise CorpusError(
                f"{bad} of {rows_read[source]} rows of corpus {source!r} cannot be used, most often for "
                f"{reason!r} ({rows}); see {file}, mend them or raise prepare.max_reject_share"
            )


def check_languages(corpora: Sequence[CorpusConfig], counts: dict[tuple[str, str, str], int]) -> None:
    """Raises CorpusError where a corpus, or a language asked of it, gave no good row."""
    for corpus in corpora:
        found = {language for source, language, reason in counts if source == corpus.name and not reason}
        missing = sorted(set(corpus.languages or ()) - found)
        if missing or not found:
            what = f"no row in {missing[0]!r}" if missing else "no row that can be used"
            there = f"; it has {', '.join(sorted(found))}" if found else ""
            raise CorpusError(f"corpus {corpus.name!r} has {what}{there}")


def find_duplicate_items(rows: pa.Table) -> pa.Table:
    """Items that say what an earlier one says, in some language: (source, item_id), each once.

    The one that stays is the first by (source, item_id). `rows` must hold all rows of the pair keys in it.
    """
    columns = (rows.column(name).to_pylist() for name in ("pair_key", "source", "item_id"))
    first: dict[int, tuple[str, str]] = {}
    repeated: set[tuple[str, str]] = set()
    for pair_key, source, item_id in sorted(zip(*columns, strict=True)):
        if first.setdefault(pair_key, (source, item_id)) != (source, item_id):
            repeated.add((source, item_id))
    items = sorted(repeated)
    return pa.table(
        {
            "source": pa.array([s for s, _ in items], pa.string()),
            "item_id": pa.array([i for _, i in items], pa.string()),
        }
    )


def assign_split(source: str, item_id: str, validation_share: float) -> Split:
    """An item's split, by a hash of its name: the same however many items there are."""
    return "validation" if stable_hash64(Salt.SPLIT, source, item_id) < validation_share * 2**64 else "train"


@dataclass(frozen=True, slots=True)
class Bucket:
    """The shard that an item belongs to, as a column's value."""

    source: str
    split: Split
    number: int

    def to_text(self) -> str:
        return json.dumps([self.source, self.split, self.number])

    @staticmethod
    def from_text(text: str) -> Bucket:
        return Bucket(*json.loads(text))


def assign_shards(
    rows: pa.Table, left_out: set[tuple[str, str]], num_shards: dict[str, int], validation_share: float
) -> pa.Table:
    """The rows that go into the store, with the `bucket` of each. `left_out` names items by source and id."""
    sources, item_ids = rows.column("source").to_pylist(), rows.column("item_id").to_pylist()
    buckets: list[str | None] = []
    for source, item_id, reason in zip(sources, item_ids, rows.column("rejected").to_pylist(), strict=True):
        if reason or (source, item_id) in left_out:
            buckets.append(None)
            continue
        split = assign_split(source, item_id, validation_share)
        # A validation split is small enough for one shard of every 1 / share.
        shards = num_shards[source] if split == "train" else max(1, round(num_shards[source] * validation_share))
        buckets.append(Bucket(source, split, stable_hash64(Salt.SHARD, source, item_id) % shards).to_text())
    column = pa.array(buckets, pa.string())
    return rows.append_column("bucket", column).filter(pc.is_valid(column))


def count_shards(counts: dict[tuple[str, str, str], int], items_per_shard: int) -> dict[str, int]:
    """Shards of each source, from the rows of its largest language."""
    largest = Counter[str]()
    for (source, _, reason), rows in counts.items():
        if not reason:
            largest[source] = max(largest[source], rows)
    return {source: -(-rows // items_per_shard) for source, rows in largest.items()}


def tokenizer_texts(rows: pa.Table, tokenization_prefixes: tuple[str, str]) -> list[str]:
    """Texts to train a tokenizer on: the same for the same rows, in whatever order they come."""
    query_prefix, passage_prefix = tokenization_prefixes
    columns = (rows.column(name).to_pylist() for name in ("source", "item_id", "language", "question", "passage"))
    ordered = sorted(zip(*columns, strict=True), key=lambda row: (stable_hash64(*row[:3]), row[:3]))
    texts: list[str] = []
    for _, _, _, question, passage in ordered:
        asked = [] if question is None else [query_prefix + question]
        texts += [*asked, passage_prefix + passage]
    return texts[:TOKENIZER_TEXTS]


def make_shard(
    rows: pa.Table, folder: str | Path, tokenization: PairTokenizer
) -> tuple[WrittenShard, list[RejectedRow]]:
    """Aligns the rows of one bucket by item, tokenizes them and writes their shard.

    A second row for the same item and language is rejected; the first by place stays.
    """
    bucket = Bucket.from_text(rows.column("bucket")[0].as_py())
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    rejects = []
    for row in sorted(rows.to_pylist(), key=lambda row: (row["item_id"], row["language"], place_order(row["place"]))):
        key = (row["item_id"], row["language"])
        if key in chosen:
            rejects.append(
                RejectedRow(row["source"], row["place"], "id repeated in its language", row["item_id"][:200])
            )
        else:
            chosen[key] = row
    kept = list(chosen.values())
    asked = iter(tokenization.encode([row["question"] for row in kept if row["question"] is not None], "question"))
    nothing = np.empty(0, tokenization.token_type)
    questions = [nothing if row["question"] is None else next(asked) for row in kept]
    passages = tokenization.encode([row["passage"] for row in kept], "passage")
    negatives = iter(tokenization.encode([text for row in kept for text in row["negatives"]], "passage"))
    items: dict[str, TokenItem] = {}
    for row, question, passage in zip(kept, questions, passages, strict=True):
        item = items.setdefault(row["item_id"], TokenItem(row["item_id"], {}, {}, {}))
        item.questions[row["language"]] = question  # type: ignore[index]
        item.passages[row["language"]] = passage  # type: ignore[index]
        item.negatives[row["language"]] = [next(negatives) for _ in row["negatives"]]  # type: ignore[index]
    shard = write_shard(folder, bucket.source, bucket.split, bucket.number, items.values(), tokenization.token_type)
    return shard, rejects


def place_order(place: str) -> tuple[str, int]:
    """By what places are sorted: by lines, not by letters, where they are lines of a file."""
    file, _, line = place.rpartition(":")
    return (file, int(line)) if line.isdigit() else (place, 0)


def shard_to_json(shard: WrittenShard, rejects: Sequence[RejectedRow]) -> str:
    """What a task that wrote a shard tells the driver."""
    runs = [[list(group.languages), group.negatives, items] for group, items in shard.runs]
    return json.dumps(
        {
            "shard": [shard.source, shard.split, shard.number, shard.file, shard.items, runs, shard.sha256],
            "tokens": shard.tokens,
            "rejects": [[r.source, r.location, r.reason, r.detail] for r in rejects],
        }
    )


def shard_from_json(text: str) -> tuple[WrittenShard, list[RejectedRow]]:
    data = json.loads(text)
    source, split, number, file, num_items, runs, sha256 = data["shard"]
    groups = tuple((Group(tuple(languages), negatives), items) for languages, negatives, items in runs)
    tokens = {column: tuple(of_runs) for column, of_runs in data["tokens"].items()}
    shard = WrittenShard(source, split, number, file, num_items, groups, sha256, tokens)
    return shard, [RejectedRow(*reject) for reject in data["rejects"]]


def store_tokenizer(store: Path, config: RunConfig) -> PreTrainedTokenizerFast:
    """The tokenizer a store was made with. Raises StoreError when it is not what the run asks for."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = (
        load_tokenizer(config.model)
        if config.model.path is not None
        else PreTrainedTokenizerFast.from_pretrained(store / TOKENIZER)
    )
    TokenStore.open(store, PairTokenizer(tokenizer, config.text).fingerprint())
    return tokenizer


def store_fingerprint(
    config: RunConfig, parts: Sequence[CorpusShard], evaluation_sets: Sequence[Benchmark], tokenizer_fingerprint: str
) -> str:
    """16 hex digits that name the store these settings, these files and these evaluation sets make."""
    described = {
        "version": hbt_ray.__version__,
        "corpora": [corpus.model_dump(mode="json") for corpus in config.corpora],
        "prepare": config.prepare.model_dump(mode="json"),
        "files": [file_states(Path(part.location)) for part in parts],
        "evaluation_sets": [benchmark.fingerprint() for benchmark in evaluation_sets],
        "tokenizer": tokenizer_fingerprint,
        "text": config.text.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def file_states(place: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of each in a folder; the name alone of what is neither."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    states = [(file, file.stat()) for file in files if file.is_file()]
    return [(str(file), state.st_size, state.st_mtime_ns) for file, state in states] or [(str(place), 0, 0)]


def zero_shot_sets(config: RunConfig) -> list[tuple[str, str | None]]:
    """Name and folder of each set that training must not have seen: named for it, or what the run is measured on.

    The embedded set is no such set: its pool holds the training passages on purpose, and its questions ask about
    combinations that are never trained on.
    """
    named = [*config.evaluate.benchmarks.items(), *config.prepare.evaluation_sets.items()]
    return [(name, place) for name, place in dict.fromkeys(named) if name != "embedded"]


def load_evaluation_sets(config: RunConfig) -> list[Benchmark]:
    """The sets that training must not have seen. Raises CorpusError when one cannot be read."""
    options = ReadOptions(split=config.evaluate.split)
    return [load_benchmark(name, place, options) for name, place in zero_shot_sets(config)]


def evaluation_texts(config: RunConfig, evaluation_sets: Sequence[Benchmark]) -> DecontaminationIndex | None:
    """What no training item may hold; None where nothing is forbidden."""
    texts = [text for benchmark in evaluation_sets for text in benchmark.texts]
    return DecontaminationIndex(texts, config.prepare.near_duplicate_threshold) if texts else None


def describe_store(folder: Path, manifest: StoreManifest) -> str:
    """What a store holds and what was left out, a line per source."""
    lines = [f"store {folder}"]
    for name, source in manifest.sources.items():
        counts = manifest.counts[name]
        left_out = [
            (sum(counts["rows_rejected"].values()), "bad rows"),
            (len(counts["items_dropped_for_evaluation"]), "items that occur in evaluation sets"),
            (len(counts["items_dropped_as_repeated"]), "repeated items"),
        ]
        without = ", ".join(f"{number} {what}" for number, what in left_out if number)
        lines.append(
            f"  {name}: {source.items()} items to train on, {source.items('validation')} held out, "
            f"{len(source.languages)} languages ({' '.join(source.languages)})"
            + (f"; left out {without}" if without else "")
        )
    return "\n".join(lines)
