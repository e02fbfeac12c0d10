"""BEIR's format (Thakur et al. 2021, arXiv 2104.08663): `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`."""

from __future__ import annotations

from pathlib import Path

from hbt_ray.benchmarks.collection import Collection
from hbt_ray.benchmarks.lines import files_matching, read_beir_judgements, read_objects, with_title
from hbt_ray.benchmarks.options import ReadOptions
from hbt_ray.errors import CorpusError
from hbt_ray.records import Benchmark

LANGUAGE = "en"  # of a set that names none


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """One set, or a folder of sets in several languages, each in a folder named by its language.

    Queries are those that the split's judgements name. In a folder of several languages ids begin with the language.
    A passage with the query's own id is never in its list, as BEIR leaves it out (`ignore_identical_ids`): where
    passages ask, as in ArguAna and Quora, nothing is as near to a query as itself.

    Raises:
        CorpusError: the folder holds no such set, or it has no such split.
    """
    into = Collection(name)
    for language, place in sorted(_sets(folder).items()):
        start = "" if place == Path(folder).expanduser() else f"{language}:"
        for file, _ in files_matching(place, r"corpus\.jsonl"):
            for line, passage in read_objects(file, into, ("_id", "text")):
                into.add_passage(start + passage["_id"], language, with_title(passage), place=line)
        for file, _ in files_matching(place, r"queries\.jsonl"):
            for line, query in read_objects(file, into, ("_id", "text")):
                into.add_query(start + query["_id"], language, query["text"], place=line)
                into.exclude(start + query["_id"], start + query["_id"])
        for line, query_id, passage_id, grade in read_beir_judgements(_split(place, options.split), into):
            into.judge(start + query_id, start + passage_id, grade, language=language, place=line)
    return into.benchmark(judged_only=True)


def _sets(folder: str) -> dict[str, Path]:
    found = [path.parent for path, _ in files_matching(folder, r"corpus\.jsonl")]
    if not found:
        raise CorpusError(f"{folder!r} holds no corpus.jsonl; name the folder of a set in BEIR's format")
    root = Path(folder).expanduser()
    if root in found:
        return {LANGUAGE: root}
    return {path.name: path for path in found}


def _split(folder: Path, split: str | None) -> Path:
    splits = {match[1]: path for path, match in files_matching(folder, r"([\w-]+)\.tsv") if path.parent.name == "qrels"}
    wanted = split or ("test" if "test" in splits else "dev")
    if wanted not in splits:
        raise CorpusError(
            f"{str(folder)!r} has no judgements qrels/{wanted}.tsv; there are {', '.join(sorted(splits)) or 'none'}"
        )
    return splits[wanted]
