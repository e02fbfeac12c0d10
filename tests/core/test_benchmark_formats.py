"""Files in each set's published format, whole and broken: what is wrong is counted, told, and loses no query."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hbt_ray.benchmarks import ReadOptions, load_benchmark
from hbt_ray.benchmarks.miracl import PASSAGES, resource_level
from hbt_ray.benchmarks.mlqa import PUBLISHED_QUESTIONS
from hbt_ray.errors import CorpusError
from hbt_ray.evaluate import check_benchmark
from hbt_ray.records import Benchmark


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
    """The text of each query and passage."""
    queries = {query.query_id: query.text for query in benchmark.queries}
    return queries | {passage.passage_id: passage.text for passage in benchmark.passages}


def reasons(benchmark: Benchmark) -> Counter[str]:
    return Counter(reject.reason for reject in benchmark.rejects)


@pytest.mark.parametrize("name", ["miracl", "mrtydi", "mldr", "mlqa-r", "xm3600", "pairs"])
def test_a_language_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, name: str):
    places = {each: tmp_path / each for each in ("miracl", "mrtydi", "mldr", "mlqa-r", "xm3600", "pairs")}
    miracl(places["miracl"], "sw", "te")
    mlqa(places["mlqa-r"], "dev", "sw", "te", mlqa_paragraph("Ja."))
    image = {"image/key": "k", "sw": {"caption": ["a"]}, "te": {"caption": ["b"]}}
    write_objects(places["xm3600"] / "captions.jsonl", image)
    for language in ("sw", "te"):
        mrtydi_hub(places["mrtydi"] / language)
        write_objects(places["mldr"] / f"mldr-v1.0-{language}" / "corpus.jsonl", {"docid": "d", "text": "long"})
        write_objects(places["pairs"] / f"{language}.jsonl", {"id": "1", "question": "?", "context": "A."})
    with pytest.raises(CorpusError, match=r"no swahili; .*\bsw, te$"):
        load(f"{name}/swahili", places[name])


# BEIR


def beir(folder: Path, **files: str) -> Path:
    corpus = [{"_id": "p1", "title": "Keys", "text": "Under the mat."}, {"_id": "p2", "title": "", "text": "In a box."}]
    write_objects(folder / "corpus.jsonl", *corpus)
    write_objects(folder / "queries.jsonl.gz", {"_id": "q1", "text": "Where?"}, {"_id": "q2", "text": "What?"})
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq1\tp1\t2\nq1\tp2\t0\n")
    write(folder / "qrels" / "train.tsv", "query-id\tcorpus-id\tscore\nq2\tp2\t1\n")
    for name, text in files.items():
        with (folder / name.replace("__", "/").replace("_jsonl", ".jsonl").replace("_tsv", ".tsv")).open("a") as file:
            file.write(text)
    return folder


def test_beir_takes_the_queries_of_the_split_and_puts_titles_first(tmp_path: Path):
    benchmark = load("beir", beir(tmp_path))
    assert texts(benchmark) == {"q1": "Where?", "p1": "Keys Under the mat.", "p2": "In a box."}
    assert benchmark.judgements == {"q1": {"p1": 2, "p2": 0}}
    assert (benchmark.split, benchmark.rejects) == ("test", [])
    train = load("beir", tmp_path, ReadOptions(split="train"))
    assert (train.split, train.judgements) == ("train", {"q2": {"p2": 1}})
    with pytest.raises(CorpusError, match=r"no judgements qrels/dev.tsv; there are test, train"):
        load("beir", tmp_path, ReadOptions(split="dev"))


def test_beir_sets_side_by_side_are_languages(tmp_path: Path):
    beir(tmp_path / "en")
    beir(tmp_path / "sw")
    benchmark = load("beir/news", tmp_path)
    assert (benchmark.name, benchmark.languages) == ("beir-news", ["en", "sw"])
    assert benchmark.judgements["sw:q1"] == {"sw:p1": 2, "sw:p2": 0}


def test_beir_sets_side_by_side_are_read_in_one_split(tmp_path: Path):
    write(beir(tmp_path / "en") / "qrels" / "dev.tsv", "q1\tp1\t1\n")
    only = beir(tmp_path / "sw") / "qrels"
    (only / "test.tsv").rename(only / "dev.tsv")
    assert load("beir", tmp_path).split == "dev"
    with pytest.raises(CorpusError, match=r"sw' has no judgements qrels/test.tsv; there are dev, train"):
        load("beir", tmp_path, ReadOptions(split="test"))


@pytest.mark.parametrize(
    ("named", "language"),
    [("nfcorpus", "en"), ("nfcorpus/de", "de"), ("zh-Hant", "zh-Hant"), ("nq", "en"), ("english", "en"), ("gis", "en")],
)
def test_one_beir_set_has_the_language_that_its_folder_is_called(tmp_path: Path, named: str, language: str):
    benchmark = load("beir", beir(tmp_path / named))
    assert benchmark.languages == [language]
    assert benchmark.judgements.keys() == {"q1"}


def test_a_beir_set_is_read_from_within_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(beir(tmp_path / "de"))
    assert load("beir", Path()).languages == ["de"]


def test_languages_of_beir_sets_stand_in_any_folder_of_the_path(tmp_path: Path):
    beir(tmp_path / "de" / "nq")
    beir(tmp_path / "nq" / "sw")
    assert load("beir", tmp_path).languages == ["de", "sw"]


def test_beir_sets_of_no_language_or_of_the_same_one_are_refused(tmp_path: Path):
    beir(tmp_path / "cqadupstack" / "english")
    beir(tmp_path / "cqadupstack" / "gis")
    with pytest.raises(CorpusError, match="not say the language of 'english'; name the folder of one set, or put each"):
        load("beir", tmp_path / "cqadupstack")
    beir(tmp_path / "sets" / "de" / "scifact")
    beir(tmp_path / "sets" / "nfcorpus" / "de")
    with pytest.raises(CorpusError, match="holds two sets in de, 'de/scifact' and 'nfcorpus/de'; name the folder of"):
        load("beir", tmp_path / "sets")


def test_a_beir_query_never_finds_the_passage_with_its_own_id(tmp_path: Path):
    benchmark = load(
        "beir", beir(tmp_path, corpus_jsonl='{"_id": "q 1", "text": "Where?"}\n{"_id": "q2", "text": "?"}\n')
    )
    assert benchmark.excluded == {}  # q2 is not asked in this split, and "q 1" is another id
    assert load("beir", tmp_path, ReadOptions(split="train")).excluded == {"q2": "q2"}
    beir(tmp_path / "sets" / "en", corpus_jsonl='{"_id": "q1", "text": "Where?"}\n')
    beir(tmp_path / "sets" / "sw")
    assert load("beir", tmp_path / "sets").excluded == {"en:q1": "en:q1"}


def test_what_is_wrong_with_a_beir_set_is_counted_and_the_rest_kept(tmp_path: Path):
    benchmark = load(
        "beir",
        beir(
            tmp_path,
            corpus_jsonl='{"_id": "p1", "text": "again"}\n{"_id": "p3"}\n[1]\n{"_id": "p4", "text": " "}\n{"_id\n',
            qrels__test_tsv="q1\tp9\t1\nq7\tp1\t1\nq2\tp2\t0\nq1 p1\nq1\tp1\t1\n",
        ),
    )
    assert reasons(benchmark) == {
        "repeated passage id": 1,
        "missing text": 1,
        "not an object": 1,
        "passage without text": 1,
        "broken JSON": 1,
        "judgement of a missing passage": 1,
        "judgement for a missing query": 1,
        "query without a relevant passage": 1,
        "not a judgement": 1,
        "two judgements of one passage": 1,
    }
    assert benchmark.absent == {"p9": "en"}
    assert benchmark.judgements == {"q1": {"p1": 2, "p2": 0, "p9": 1}, "q2": {"p2": 0}}
    assert texts(benchmark).keys() == {"q1", "q2", "p1", "p2"}


def test_a_beir_query_with_only_a_missing_passage_that_is_not_relevant_was_judged(tmp_path: Path):
    benchmark = load("beir", beir(tmp_path, qrels__test_tsv="q2\tp9\t0\n"))
    assert [query.query_id for query in benchmark.queries] == ["q1", "q2"]
    assert reasons(benchmark) == {"query without a relevant passage": 1}
    assert benchmark.absent == {}


def test_a_file_that_breaks_off_is_told_and_read_as_far_as_it_goes(tmp_path: Path):
    beir(tmp_path)
    whole = gzip.compress("".join(f'{{"_id": "q{n}", "text": "{n} {"x" * 99}"}}\n' for n in range(500)).encode())
    (tmp_path / "queries.jsonl.gz").write_bytes(whole[:-9])
    benchmark = load("beir", tmp_path)
    assert reasons(benchmark)["unreadable file"] == 1
    assert len(benchmark.queries) == 1


def test_no_link_leads_out_of_the_folder(tmp_path: Path):
    secret = tmp_path / "secret.jsonl"
    write_objects(secret, {"_id": "p", "text": "secret"})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "corpus.jsonl").symlink_to(secret)
    with pytest.raises(CorpusError, match="leads out of its folder"):
        load("beir", tmp_path / "set")


# MIRACL


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


def test_miracl_s_languages_have_pools_of_their_own(tmp_path: Path):
    benchmark = load("miracl", miracl(tmp_path, "sw", "yo"))
    assert texts(benchmark)["sw:1#0"] == "T sw 1#0"
    assert benchmark.judgements["yo:6"] == {"yo:1#0": 1, "yo:1#1": 0}
    assert (benchmark.split, benchmark.rejects) == ("dev", [])
    only = load("miracl/sw", tmp_path)
    assert (only.name, only.languages) == ("miracl-sw", ["sw"])


def test_a_miracl_topic_without_a_judgement_stays_and_is_told(tmp_path: Path):
    miracl(tmp_path, "sw")
    write(tmp_path / "miracl-v1.0-sw" / "topics" / "topics.miracl-v1.0-sw-dev.tsv", "6\tWhere?\n8\tWho?\n9\tWhy?\n")
    benchmark = load("miracl", tmp_path)
    assert [query.query_id for query in benchmark.queries] == ["sw:6", "sw:8", "sw:9"]
    told = [(reject.place, reject.reason) for reject in benchmark.rejects]
    assert told == [("sw:9", "query without a relevant passage")]


def test_miracl_judgements_between_languages_are_kept(tmp_path: Path):
    miracl(tmp_path, "sw", corpora=("sw", "en"))
    write(tmp_path / "qrels.miracl-v1.0-sw-en-dev.tsv", "6\tQ0\t2#0\t1\n")
    benchmark = load("miracl", tmp_path)
    assert benchmark.judgements["sw:6"] == {"sw:1#0": 1, "sw:1#1": 0, "en:2#0": 1}


def test_a_language_whose_pool_is_missing_is_told_and_its_queries_stay(tmp_path: Path):
    benchmark = load("miracl", miracl(tmp_path, "sw", "yo", corpora=("sw",)))
    assert len(benchmark.queries) == 4
    assert benchmark.absent == {"yo:1#0": "yo", "yo:2#0": "yo"}
    assert ("yo", "language without passages") in [(reject.place, reject.reason) for reject in benchmark.rejects]


def test_miracl_without_passages_is_told(tmp_path: Path):
    miracl(tmp_path, "sw", corpora=("en",))
    with pytest.raises(CorpusError, match="holds no passages for sw; put their docs"):
        load("miracl", tmp_path)
    with pytest.raises(CorpusError, match="no topics of the split 'test'; splits there: dev"):
        load("miracl", tmp_path, ReadOptions(split="test"))


def test_eighteen_languages_have_a_resource_level():
    assert len(PASSAGES) == 18
    levels = {level: sorted(x for x in PASSAGES if resource_level(x) == level) for level in ("low", "mid", "high")}
    assert levels["low"] == ["bn", "hi", "sw", "te", "th", "yo"]
    assert levels["high"] == ["de", "en", "es", "fr", "ja", "ru", "zh"]
    assert resource_level("tr") is None


@pytest.mark.parametrize("name", ["miracl", "mrtydi"])
def test_published_topics_and_judgements_are_read_without_a_complaint(shared_data: Path, tmp_path: Path, name: str):
    split = {"miracl": "-dev.tsv.gz", "mrtydi": ".test.txt.gz"}[name]
    version = {"miracl": "miracl-v1.0", "mrtydi": "mrtydi-v1.1"}[name]
    for kind in ("topics", "qrels"):
        file = f"{kind}.{version}-sw{split}"
        (tmp_path / file).write_bytes((shared_data / name / file).read_bytes())
    write_objects(tmp_path / "corpus-sw" / "corpus.jsonl", {"docid": "none", "title": "", "text": "Hakuna."})
    benchmark = load(name, tmp_path)
    assert len(benchmark.queries) == {"miracl": 482, "mrtydi": 670}[name]
    assert reasons(benchmark).keys() == {"judgement of a missing passage"}


# Mr. TyDi


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
    asked = {"query_id": "26", "query": "Wapi?", "positive_passages": [positive], "negative_passages": []}
    write_objects(folder / "test.jsonl.gz", asked, {"query_id": "27", "query": "Nani?", "positive_passages": []})
    write_objects(folder / "corpus.jsonl.gz", {"docid": "7#1", "title": "Nyumba", "text": "Hapa."})


@pytest.mark.parametrize("inside", ["mrtydi-v1.1-swahili", "mr.tydi/mrtydi-v1.0-swahili", "sw"])
@pytest.mark.parametrize(
    ("layout", "text"), [(mrtydi_release, "Nyumba\n\nHapa."), (mrtydi_hub, "Nyumba Hapa.")], ids=["release", "hub"]
)
def test_mr_tydi_is_read_as_released_and_as_on_the_hub(
    tmp_path: Path, layout: Callable[[Path], None], text: str, inside: str
):
    layout(tmp_path / inside)
    for folder in (tmp_path, tmp_path / inside):
        benchmark = load("mrtydi", folder)
        assert texts(benchmark) == {"sw:26": "Wapi?", "sw:27": "Nani?", "sw:7#1": text}
        assert (benchmark.split, benchmark.judgements) == ("test", {"sw:26": {"sw:7#1": 1}})
        told = [(reject.place, reject.reason) for reject in benchmark.rejects]
        assert told == [("sw:27", "query without a relevant passage")]


def test_what_mr_tydi_holds_twice_is_read_once(tmp_path: Path):
    for language in ("swahili", "telugu"):
        mrtydi_hub(tmp_path / "hub" / f"mrtydi-v1.1-{language}")
    mrtydi_topics(tmp_path / "hub" / "mrtydi-v1.1-swahili" / "ir-format-data", "topics.test.txt")
    mrtydi_release(tmp_path / "released" / "mrtydi-v1.1-swahili")
    benchmark = load("mrtydi", tmp_path)
    assert [query.query_id for query in benchmark.queries] == ["sw:26", "sw:27", "te:26", "te:27"]
    assert reasons(benchmark) == {"query without a relevant passage": 2}
    assert load("mrtydi/te", tmp_path).languages == ["te"]


def test_mr_tydi_s_topics_may_name_their_language_themselves(tmp_path: Path):
    mrtydi_topics(tmp_path, "topics.mrtydi-v1.1-sw.test.txt")
    mrtydi_hub(tmp_path / "mrtydi-v1.1-swahili")
    (tmp_path / "mrtydi-v1.1-swahili" / "test.jsonl.gz").unlink()
    assert load("mrtydi", tmp_path).judgements == {"sw:26": {"sw:7#1": 1}}


def test_what_mr_tydi_lacks_is_told(tmp_path: Path):
    mrtydi_topics(tmp_path / "mrtydi-v1.1-swahili")
    with pytest.raises(CorpusError, match="holds no passages for sw; put docs"):
        load("mrtydi", tmp_path)
    with pytest.raises(CorpusError, match=r"holds no questions of the split 'dev'; put topic.dev.tsv"):
        load("mrtydi", tmp_path, ReadOptions(split="dev"))
    mrtydi_hub(tmp_path / "mrtydi-v1.1-swahili")
    for file in ("qrels.test.txt", "test.jsonl.gz"):
        (tmp_path / "mrtydi-v1.1-swahili" / file).unlink()
    with pytest.raises(CorpusError, match=r"no judgements for .*topic.test.tsv'; put its qrels beside it"):
        load("mrtydi", tmp_path)


# MLDR


def test_mldr_reads_documents_and_the_questions_of_a_split(tmp_path: Path):
    for language in ("ar", "en"):
        folder = tmp_path / f"mldr-v1.0-{language}"
        write_objects(folder / "corpus.jsonl.gz", {"docid": "d-1", "text": "long"}, {"docid": "d-2", "text": "longer"})
        positive = [{"docid": "d-2", "text": "longer"}]
        write_objects(
            folder / "test.jsonl.gz",
            {"query_id": "q-1", "query": "Which?", "positive_passages": positive, "negative_passages": []},
            {"query_id": "q-2", "query": "What?", "positive_passages": [{"text": "no id"}]},
        )
    benchmark = load("mldr", tmp_path)
    assert (benchmark.split, benchmark.languages) == ("test", ["ar", "en"])
    assert benchmark.judgements == {"ar:q-1": {"ar:d-2": 1}, "en:q-1": {"en:d-2": 1}}
    assert reasons(benchmark) == {"not a judgement": 2, "query without a relevant passage": 2}
    with pytest.raises(CorpusError, match=r"holds no mldr-v1.0-<language>/dev.jsonl.gz"):
        load("mldr", tmp_path, ReadOptions(split="dev"))


def test_mldr_is_read_from_within_a_language_s_folder_whatever_else_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "mldr-v1.0-de"
    write_objects(folder / "corpus.jsonl.gz", {"docid": "d", "text": "long"})
    asked = {"query_id": "q", "query": "Which?", "positive_passages": [{"docid": "d"}]}
    write_objects(folder / "dev.jsonl", asked)
    for file in ("dev.json", "dev.jsonl.bak", "dev-notes.jsonl", "corpus.json"):
        write(folder / file, "{}\n")
    monkeypatch.chdir(folder)
    benchmark = load("mldr", Path(), ReadOptions(split="dev"))
    assert benchmark.judgements == {"de:q": {"de:d": 1}}
    assert (benchmark.languages, benchmark.rejects) == (["de"], [])


# XM3600


def test_xm3600_s_first_caption_asks_and_the_others_answer_in_every_language(tmp_path: Path):
    def image(key: str, **captions: list[str]) -> dict[str, Any]:
        described = {language: {"caption": own, "caption/tokenized": own} for language, own in captions.items()}
        return {"image/key": key, "image/locale": "en", **described}

    write_objects(
        tmp_path / "captions.jsonl",
        image("k1", de=["Hund", "Ein Hund"], en=["dog", "a dog", "the dog"]),
        image("k2", de=["Katze"], en=["cat", "a cat"]),
        image("k3", de=[], en=["cow", "a cow"]),
    )
    benchmark = load("xm3600", tmp_path)
    assert {query.query_id: (query.text, query.group) for query in benchmark.queries} == {
        "de:k1": ("Hund", "k1"),
        "en:k1": ("dog", "k1"),
        "de:k2": ("Katze", "k2"),
        "en:k2": ("cat", "k2"),
        "en:k3": ("cow", "k3"),
    }
    assert benchmark.judgements["de:k1"] == {"de:k1:2": 1, "en:k1:2": 1, "en:k1:3": 1}
    assert benchmark.judgements["de:k2"] == {"en:k2:2": 1}
    assert (benchmark.split, reasons(benchmark)) == ("", {"missing text": 1})
    assert not {query.text for query in benchmark.queries} & {passage.text for passage in benchmark.passages}


# Parallel pairs


def test_pairs_align_by_id_and_equal_contexts_are_one_passage(tmp_path: Path):
    rows = [{"id": 1, "question": "a?", "context": "A."}, {"id": 2, "question": "b?", "context": "A."}]
    write_objects(tmp_path / "en.jsonl.gz", *rows)
    write_objects(tmp_path / "de.jsonl", {"id": "1", "question": "ä?", "context": "Ä."}, {"id": "3", "context": "Ö."})
    benchmark = load("pairs", tmp_path)
    assert [passage.passage_id for passage in benchmark.passages] == ["de:1", "en:1"]
    assert benchmark.judgements == {
        "de:1": {"de:1": 1, "en:1": 1},
        "en:1": {"de:1": 1, "en:1": 1},
        "en:2": {"en:1": 1},
    }
    assert (benchmark.split, reasons(benchmark)) == ("", {"missing text": 1})
    assert load("pairs/de", tmp_path).languages == ["de"]


# MLQA-R


def mlqa(folder: Path, split: str, context_language: str, question_language: str, *paragraphs: dict[str, Any]) -> None:
    name = f"{split}-context-{context_language}-question-{question_language}.json"
    document = {"version": 1.0, "data": [{"title": "t", "paragraphs": list(paragraphs)}]}
    write(folder / name, json.dumps(document))


def mlqa_paragraph(context: str, *questions: tuple[str, str, str]) -> dict[str, Any]:
    qas = [
        {"id": key, "question": asked, "answers": [{"text": answer, "answer_start": context.index(answer)}]}
        for key, asked, answer in questions
    ]
    return {"context": context, "qas": qas}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_mlqa_r_joins_the_files_of_all_pairs(tmp_path: Path, split: str):
    english, german = "It is a dog. It barks.", "Es ist ein Hund. Er bellt."
    mlqa(tmp_path, split, "en", "en", mlqa_paragraph(english, ("1", "What is it?", "dog"), ("2", "And?", "barks")))
    mlqa(tmp_path, split, "en", "de", mlqa_paragraph(english, ("1", "Was ist es?", "dog")))
    mlqa(tmp_path, split, "de", "de", mlqa_paragraph(german, ("1", "Was ist es?", "Hund")))
    mlqa(tmp_path, split, "de", "en", mlqa_paragraph(german, ("1", "What is it?", "Hund")))
    benchmark = load("mlqa-r", tmp_path)
    assert sorted(query.query_id for query in benchmark.queries) == ["de:1", "en:1", "en:2"]
    assert [passage.text for passage in benchmark.passages] == [
        "Es ist ein Hund.",
        "Er bellt.",
        "It is a dog.",
        "It barks.",
    ]
    both = {"de:00000:000": 1, "en:00000:000": 1}
    assert benchmark.judgements == {"de:1": both, "en:1": both, "en:2": {"en:00000:001": 1}}
    assert (benchmark.split, benchmark.rejects) == (split, [])


def test_an_answer_that_mlqa_r_does_not_find_is_told_once_whoever_asks(tmp_path: Path):
    german = mlqa_paragraph("Es ist ein Hund.", ("1", "Was ist es?", "Hund"))
    german["qas"][0]["answers"][0]["answer_start"] = 0
    for asked_in in ("de", "en", "es"):
        mlqa(tmp_path, "dev", "de", asked_in, german)
        mlqa(tmp_path, "dev", asked_in, asked_in, mlqa_paragraph(asked_in))
    mlqa(tmp_path, "dev", "de", "de", german)
    benchmark = load("mlqa-r", tmp_path)
    assert len(benchmark.queries) == 3
    assert reasons(benchmark) == {"answer not at its offset": 1, "query without a relevant passage": 3}


def test_other_counts_than_published_are_told_where_all_of_mlqa_r_s_languages_are_there(tmp_path: Path):
    for language, number in (PUBLISHED_QUESTIONS["dev"] | {"de": 511, "zh": 505}).items():
        questions = ((str(one), f"{one}?", "this") for one in range(number))
        mlqa(tmp_path, "dev", language, language, mlqa_paragraph("It is this.", *questions))
    assert [(reject.place, reject.reason, reject.detail) for reject in load("mlqa-r", tmp_path).rejects] == [
        ("de", "fewer questions than published", "511, published 512"),
        ("zh", "more questions than published", "505, published 504"),
    ]
    assert not load("mlqa-r/de", tmp_path).rejects


def test_mlqa_without_its_files_is_told(tmp_path: Path):
    with pytest.raises(CorpusError, match="splits there: none"):
        load("mlqa-r", tmp_path)
