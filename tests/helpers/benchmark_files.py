"""Small benchmarks in the formats in which they are published."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

from hbt_ray.data.benchmarks import ReadOptions, load_benchmark
from hbt_ray.data.types import Benchmark
from hbt_ray.evaluation.evaluator import check_benchmark


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_objects(path: Path, *objects: object) -> None:
    write(path, "".join(json.dumps(value) + "\n" for value in objects))


def load(name: str, folder: Path, options: ReadOptions = ReadOptions()) -> Benchmark:  # noqa: B008
    benchmark = load_benchmark(name, str(folder), options)
    check_benchmark(benchmark)
    return benchmark


def texts(benchmark: Benchmark) -> dict[str, str]:
    """Return the text of each query and passage."""
    queries = {query.query_id: query.text for query in benchmark.queries}
    return queries | {passage.passage_id: passage.text for passage in benchmark.passages}


def reasons(benchmark: Benchmark) -> Counter[str]:
    return Counter(reject.reason for reject in benchmark.rejects)


def miracl(folder: Path, *languages: str, corpora: tuple[str, ...] = ()) -> Path:
    for language in languages:
        start = folder / f"miracl-v1.0-{language}"
        write(start / "topics" / f"topics.miracl-v1.0-{language}-dev.tsv", "6\tWhere?\n8\tWho?\n")
        qrels = "6\tQ0\t1#0\t1\n6\tQ0\t1#1\t0\n8\tQ0\t2#0\t1\n"
        write(start / "qrels" / f"qrels.miracl-v1.0-{language}-dev.tsv.gz", qrels)
    for language in corpora or languages:
        passages = [{"docid": d, "title": "T", "text": f"{language} {d}"} for d in ("1#0", "1#1", "2#0")]
        write_objects(folder / f"miracl-corpus-v1.0-{language}" / "docs-0.jsonl.gz", *passages)
    return folder


def mrtydi_topics(folder: Path, topics: str = "topic.test.tsv") -> None:
    write(folder / topics, "26\tWapi?\n27\tNani?\n")
    write(folder / topics.replace("topics", "qrels").replace("topic", "qrels").replace("tsv", "txt"), "26 Q0 7#1 1\n")


def mrtydi_release(folder: Path) -> None:
    mrtydi_topics(folder)
    write(folder / "topic.train.tsv", "30\tLini?\n")
    write(folder / "topic.tsv", "26\tWapi?\n27\tNani?\n30\tLini?\n")
    write_objects(folder / "collection" / "docs.jsonl.gz", {"id": "7#1", "contents": "Nyumba\n\nHapa."})


def mrtydi_hub(folder: Path) -> None:
    positive = {"docid": "7#1", "title": "Nyumba", "text": "Hapa."}
    judged = {"query_id": "26", "query": "Wapi?", "positive_passages": [positive], "negative_passages": []}
    write_objects(folder / "test.jsonl.gz", judged, {"query_id": "27", "query": "Nani?", "positive_passages": []})
    write_objects(folder / "corpus.jsonl.gz", {"docid": "7#1", "title": "Nyumba", "text": "Hapa."})


def mlqa(folder: Path, split: str, context_language: str, question_language: str, *paragraphs: dict[str, Any]) -> None:
    name = f"{split}-context-{context_language}-question-{question_language}.json"
    document = {"version": 1.0, "data": [{"title": "t", "paragraphs": list(paragraphs)}]}
    write(folder / name, json.dumps(document))


def mlqa_paragraph(context: str, *questions: tuple[str, str, str]) -> dict[str, Any]:
    qas = [
        {"id": key, "question": text, "answers": [{"text": answer, "answer_start": context.index(answer)}]}
        for key, text, answer in questions
    ]
    return {"context": context, "qas": qas}


def squad_paragraph(context: str, breaks: list[list[int]], *questions: tuple[str, str, int]) -> dict[str, Any]:
    """Return a paragraph with questions of (id, text, offset of the answer)."""
    qas = [{"id": key, "question": text, "answers": [{"answer_start": start}]} for key, text, start in questions]
    return {"context": context, "sentence_breaks": breaks, "qas": qas}


def write_squad(folder: Path, language: str, *paragraphs: dict[str, Any]) -> None:
    document = {"data": [{"title": "t", "paragraphs": [paragraph]} for paragraph in paragraphs]}
    write(folder / f"{language}.json", json.dumps(document))
