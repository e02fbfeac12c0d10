"""Benchmarks by name, and the options that their formats have."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.benchmarks import (
    READERS,
    BenchmarkReader,
    ReadOptions,
    can_be_downloaded,
    check_options,
    load_benchmark,
    reader_of,
)
from hbt_ray.errors import CorpusError
from tests.helpers.benchmark_files import (
    load,
    miracl,
    mlqa,
    mlqa_paragraph,
    mrtydi_hub,
    reasons,
    squad_paragraph,
    write_objects,
    write_squad,
)


def test_unknown_benchmark_names_the_nearest():
    with pytest.raises(CorpusError, match="did you mean 'xquad-r'"):
        load_benchmark("xquad", None)
    with pytest.raises(
        CorpusError, match="there are embedded, xquad-r, squad, mlqa-r, miracl, mrtydi, beir, mldr, xm3600, pairs"
    ):
        load_benchmark("zzz", None)


@pytest.mark.parametrize(("name", "folder"), [("embedded", "/somewhere"), ("embedded/de", None)])
def test_embedded_benchmark_has_no_folder_and_no_parts(name: str, folder: str | None):
    with pytest.raises(
        CorpusError, match=r"'embedded' comes with the package, whole; write embedded, not embedded[=/]"
    ):
        load_benchmark(name, folder)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["pairs"], ReadOptions(split="dev"), "the benchmark 'pairs' has no splits; leave out --split"),
        (["squad", "xm3600/de"], ReadOptions(split="test"), "the benchmarks 'squad', 'xm3600/de' have no splits;"),
        (
            ["beir/nq"],
            ReadOptions(with_paragraph=True),
            "'beir/nq' has no paragraphs around passages; leave out --with-",
        ),
        (["embedded"], ReadOptions(with_paragraph=True), "'embedded' has no paragraphs around passages"),
    ],
)
def test_option_without_effect_on_any_benchmark_is_refused(names: list[str], options: ReadOptions, message: str):
    with pytest.raises(CorpusError, match=message):
        check_options(names, options)


def test_option_with_effect_on_one_benchmark_is_accepted(tmp_path: Path):
    write_squad(tmp_path, "en", squad_paragraph("One.", [[0, 4]], ("a", "Which?", 0)))
    both = ReadOptions(with_paragraph=True, split="dev")
    check_options(["pairs", "squad", "miracl/sw"], both)
    check_options(["mlqa-r"], both)
    check_options(["pairs"], ReadOptions())
    check_options([], both)
    check_options(["xquad"], both)  # unknown: load_benchmark raises the error
    assert load_benchmark("squad", str(tmp_path), both).split == ""


@pytest.mark.parametrize("name", ["miracl", "mrtydi", "mldr", "mlqa-r", "xm3600", "pairs"])
def test_missing_language_is_named_with_the_available_ones(tmp_path: Path, name: str):
    folders = {each: tmp_path / each for each in ("miracl", "mrtydi", "mldr", "mlqa-r", "xm3600", "pairs")}
    miracl(folders["miracl"], "sw", "te")
    mlqa(folders["mlqa-r"], "dev", "sw", "te", mlqa_paragraph("Ja."))
    image = {"image/key": "k", "sw": {"caption": ["a"]}, "te": {"caption": ["b"]}}
    write_objects(folders["xm3600"] / "captions.jsonl", image)
    for language in ("sw", "te"):
        mrtydi_hub(folders["mrtydi"] / language)
        write_objects(folders["mldr"] / f"mldr-v1.0-{language}" / "corpus.jsonl", {"docid": "d", "text": "long"})
        write_objects(folders["pairs"] / f"{language}.jsonl", {"id": "1", "question": "?", "context": "A."})
    with pytest.raises(CorpusError, match=r"no swahili; .*\bsw, te$"):
        load(f"{name}/swahili", folders[name])


@pytest.mark.parametrize("name", ["miracl", "mrtydi"])
def test_published_topics_and_judgements_have_no_faults(shared_data: Path, tmp_path: Path, name: str):
    split = {"miracl": "-dev.tsv.gz", "mrtydi": ".test.txt.gz"}[name]
    version = {"miracl": "miracl-v1.0", "mrtydi": "mrtydi-v1.1"}[name]
    for file_type in ("topics", "qrels"):
        file = f"{file_type}.{version}-sw{split}"
        (tmp_path / file).write_bytes((shared_data / name / file).read_bytes())
    judged = {"miracl": "32589#0", "mrtydi": "15607#5"}[name]
    write_objects(tmp_path / "corpus-sw" / "corpus.jsonl", {"docid": judged, "title": "", "text": "Hakuna."})
    benchmark = load(name, tmp_path)
    assert len(benchmark.queries) == {"miracl": 482, "mrtydi": 670}[name]
    assert reasons(benchmark).keys() == {"judgement of a missing passage"}


@pytest.mark.parametrize("family", READERS)
def test_module_of_every_benchmark_declares_a_reader(family: str):
    assert isinstance(reader_of(family), BenchmarkReader)


def test_only_a_name_with_a_part_can_be_downloaded():
    assert can_be_downloaded("miracl/sw")
    assert not any(map(can_be_downloaded, ["miracl", "miracl/", "pairs/de", "embedded", "unknown/de"]))
