from __future__ import annotations

import json
from pathlib import Path

import pytest

from hbt_ray.config import CorpusConfig
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.study.config import SyntheticBenchmark
from hbt_ray.study.synthetic_benchmarks import evenly_spaced, make_benchmark


def write_corpus(folder: Path) -> CorpusConfig:
    """Write 6 items in two languages; the last one lacks German."""
    folder.mkdir()
    for language, count in (("de", 5), ("en", 6)):
        rows = [{"id": f"i{n}", "question": f"{language} q{n}?", "context": f"{language} p{n}."} for n in range(count)]
        (folder / f"{language}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return CorpusConfig(format="jsonl", name="made", path=str(folder))


def test_benchmark_has_all_kept_passages_and_queries_in_most_languages(tmp_path: Path):
    source = SyntheticBenchmark(corpus=write_corpus(tmp_path / "corpus"), items=None, questions=2)
    make_benchmark("miracl", source, tmp_path / "made")
    benchmark = load_benchmark("miracl", str(tmp_path / "made"))
    assert sorted(passage.text.strip() for passage in benchmark.passages) == [
        *(f"de p{n}." for n in range(5)),
        *(f"en p{n}." for n in range(6)),
    ]
    assert sorted(query.text for query in benchmark.queries) == ["de q0?", "de q2?", "en q0?", "en q2?"]


def test_made_benchmark_is_not_written_again(tmp_path: Path):
    source = SyntheticBenchmark(corpus=write_corpus(tmp_path / "corpus"), questions=2)
    make_benchmark("xm3600", source, tmp_path / "made")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")}
    make_benchmark("xm3600", source, tmp_path / "made")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")} == before


def test_made_benchmark_is_written_again_after_its_settings_or_corpus_changed(tmp_path: Path):
    corpus, folder = write_corpus(tmp_path / "corpus"), tmp_path / "made"

    def questions_after(questions: int) -> list[str]:
        make_benchmark("xm3600", SyntheticBenchmark(corpus=corpus, questions=questions), folder)
        return sorted(query.text for query in load_benchmark("xm3600", str(folder)).queries if query.language == "en")

    assert questions_after(2) == ["en q0?", "en q2?"]
    assert questions_after(3) == ["en q0?", "en q1?", "en q3?"]
    file = Path(str(corpus.path)) / "en.jsonl"
    file.write_text(file.read_text().replace("en q1?", "en changed?"))
    assert questions_after(3) == ["en changed?", "en q0?", "en q3?"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("made")] == ["made"]


def test_corpus_without_questions_is_refused_in_words(tmp_path: Path):
    (tmp_path / "en.jsonl").write_text(json.dumps({"id": "i0", "question": "", "context": "p0."}))
    source = SyntheticBenchmark(corpus=CorpusConfig(format="jsonl", name="made", path=str(tmp_path)))
    with pytest.raises(CorpusError, match="corpus 'made' has no row with a question to make xm3600 from"):
        make_benchmark("xm3600", source, tmp_path / "out")


def test_evenly_spaced_values_are_all_if_there_are_fewer():
    assert evenly_spaced(["a", "b", "c", "d"], 2) == ["a", "c"]
    assert evenly_spaced(["a", "b"], 5) == ["a", "b"]
