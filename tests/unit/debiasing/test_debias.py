"""The new model's vectors are those of the formulas; where it needs languages, it has them or is refused."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sentence_transformers import SentenceTransformer

from hbt_ray import api
from hbt_ray.cli import main
from hbt_ray.config import CorpusConfig, EvaluateConfig, RunConfig, build
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.model_files import DEBIASING_METHODS, check_trainable
from hbt_ray.debiasing.debias import debias_model, fit
from hbt_ray.debiasing.erasure import means_by_language
from hbt_ray.debiasing.fitting_texts import read_fitting_texts
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.run_evaluation import evaluate_model
from hbt_ray.mining import open_miner
from hbt_ray.models.encoder import load_pretrained
from hbt_ray.models.text_embedder import TextEmbedder
from tests.helpers import model_folders, tiny_corpus
from tests.unit.debiasing.test_fitting_texts import write_different

ITEMS = 16


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model with prompts, a corpus, a benchmark, and a new model of each method."""
    folder = tmp_path_factory.mktemp("debiased")
    model_folders.KINDS["prompts"](folder / "model")
    model_folders.write_pairs(folder / "faq", items=30)
    model_folders.write_pairs(folder / "pairs", items=8)
    for method in DEBIASING_METHODS:
        debias_model(folder / "model", corpora(folder), folder / method, method=method, items=ITEMS)
    return folder


def corpora(folder: Path) -> list[CorpusConfig]:
    return [CorpusConfig(format="jsonl", path=str(folder / "faq"))]


def settings(folder: Path, **others: object) -> EvaluateConfig:
    return EvaluateConfig(benchmarks={"pairs": str(folder / "pairs")}, figures=False, precision="fp32", **others)


class ByFirstWord:
    """Embeds with sentence-transformers and subtracts the mean of the language that a text begins with."""

    def __init__(self, folder: Path) -> None:
        self.encoder = SentenceTransformer(str(folder / "model"), device="cpu")
        self.fitted = read_fitting_texts(corpora(folder), ITEMS)

    def queries(self, texts: list[str]) -> np.ndarray:
        return self.centred(self.encoder.encode_query, texts, self.fitted.questions)

    def passages(self, texts: list[str]) -> np.ndarray:
        return self.centred(self.encoder.encode_document, texts, self.fitted.passages)

    def centred(self, encode, texts, fitted) -> np.ndarray:
        means = means_by_language(unit(encode(fitted)), self.fitted.labels)
        languages = [self.fitted.languages.index(text.split()[0]) for text in texts]
        return unit(unit(encode(texts)) - means[languages]).astype(np.float32)


@pytest.mark.parametrize("method", ["projection", "leace"])
def test_sentence_transformers_gives_the_vectors_of_the_formula(made, method):
    texts = read_fitting_texts(corpora(made), ITEMS)
    before = TextEmbedder(load_pretrained(str(made / "model")))
    queries, passages = before.queries(texts.questions), before.passages(texts.passages)
    _, found = fit(method, queries, passages, texts)
    assert found is not None
    assert found.rank == 2
    after = SentenceTransformer(str(made / method), device="cpu")
    assert np.allclose(after.encode_query(texts.questions), unit(found(queries)), atol=1e-4)
    assert np.allclose(after.encode_document(texts.passages), unit(found(passages)), atol=1e-4)
    mapped = found(np.concatenate([queries, passages]))
    means = means_by_language(mapped, np.tile(texts.labels, 2))
    assert np.abs(means - means[0]).max() < 1e-8  # vectors are float32


def test_a_model_of_means_loads_and_has_the_vectors_of_its_base(made):
    before, after = (SentenceTransformer(str(made / name), device="cpu") for name in ("model", "mean"))
    texts = [tiny_corpus.question("de", 1), tiny_corpus.passage("fr", 3)]
    assert np.array_equal(before.encode_query(texts), after.encode_query(texts))


def test_evaluation_subtracts_the_means_of_the_benchmarks_languages(made, tmp_path):
    [report] = evaluate_model(str(made / "mean"), settings(made), tmp_path / "report")
    benchmark = load_benchmark("pairs", str(made / "pairs"))
    expected = evaluate_benchmark(ByFirstWord(made), benchmark, settings(made))
    assert report.metrics == pytest.approx(expected.metrics, abs=2e-3)
    [untouched] = evaluate_model(str(made / "model"), settings(made), tmp_path / "untouched")
    assert report.metrics["pairs/multi/map"] != untouched.metrics["pairs/multi/map"]

    sentence = "so the model was given the languages of pairs"
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [note.endswith(sentence) for note in written["notes"]] == [True]
    assert written["model"]["debiasing"] == "mean of 3 languages, fitted on faq"
    assert all(sentence in (tmp_path / "report" / name).read_text() for name in ("report.md", "report.html"))
    assert untouched.notes == ()


@pytest.mark.parametrize("method", DEBIASING_METHODS)
def test_language_bias_of_a_model_is_lower_afterwards(made, tmp_path, method):
    whole = EvaluateConfig(benchmarks={"pairs": str(made / "faq")}, figures=False)
    before, after = (
        next(evaluate_model(str(made / name), whole, tmp_path / name)).metrics for name in ("model", method)
    )
    assert after["pairs/multi/rank_distance"] < before["pairs/multi/rank_distance"]


def test_a_language_without_a_mean_is_said(made, tmp_path):
    (made / "pairs" / "sw.jsonl").write_text(json.dumps({"id": "00", "question": "nani", "context": "ni"}) + "\n")
    try:
        [report] = evaluate_model(str(made / "mean"), settings(made), tmp_path / "report")
    finally:
        (made / "pairs" / "sw.jsonl").unlink()
    assert any("no mean vector of sw (1 queries, 1 passages)" in warning for warning in report.warnings)


def test_evaluation_says_that_the_benchmark_was_not_excluded(made, tmp_path, caplog):
    [report] = evaluate_model(str(made / "leace"), settings(made), tmp_path / "report")
    assert report.decontaminated is False
    assert "run hbt debias with --exclude pairs=FOLDER for a zero-shot result" in caplog.text
    different = CorpusConfig(format="jsonl", path=str(write_different(tmp_path / "different", range(20))))
    sets = {"pairs": str(made / "pairs")}
    record = debias_model(made / "model", [different], tmp_path / "x", evaluation_sets=sets)
    assert (record["items_excluded"], list(record["evaluation_sets"])) == (0, ["pairs"])
    [report] = evaluate_model(str(tmp_path / "x"), settings(made), tmp_path / "excluded")
    assert (report.decontaminated, report.warnings) == (True, ())


def test_equal_arguments_give_equal_bytes(made, tmp_path):
    for method in DEBIASING_METHODS:
        debias_model(made / "model", corpora(made), tmp_path / method, method=method, items=ITEMS)
        digests = [
            {
                path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            for folder in (made / method, tmp_path / method)
        ]
        assert digests[0] == digests[1]


def test_prefixes_that_are_given_are_fitted_with_and_saved(made, tmp_path):
    record = debias_model(made / "model", corpora(made), tmp_path / "x", items=ITEMS, query_prefix="what is ")
    encoder = SentenceTransformer(str(tmp_path / "x"), device="cpu")
    assert record["query_prefix"] == encoder.prompts["query"] == "what is "
    assert record["passage_prefix"] == encoder.prompts["document"] == model_folders.PROMPTS["document"]


def test_a_model_of_means_is_refused_where_no_language_is_given(made, tmp_path):
    from hbt_ray.tracking.logged_model import write_mlflow_model

    model = str(made / "mean")
    refused = "needs the language of each text, whose mean vector is subtracted, and only hbt evaluate gives it; write"
    for use in (
        lambda: open_miner(RunConfig(), model),
        lambda: check_trainable(model, ()),
        lambda: write_mlflow_model(made / "mean", tmp_path / "x", None),
        lambda: debias_model(model, corpora(made), tmp_path / "x"),
    ):
        with pytest.raises(ConfigError, match=refused):
            use()
    with pytest.raises(ConfigError, match="dimensions 4 would cut vectors"):
        next(evaluate_model(model, settings(made, dimensions=4), tmp_path / "x"))
    with pytest.raises(ConfigError, match=r"the model in memory needs the means of languages .*; evaluate that folder"):
        api.evaluate(SentenceTransformer(model, device="cpu"), settings(made), tmp_path / "x")
    exported = run("export", model, "--out", str(tmp_path / "exported"))
    assert exported.exit_code == 2
    assert refused in exported.stderr


def test_a_map_is_part_of_the_model_for_mining_and_training(made):
    check_trainable(str(made / "leace"), ())
    miner = open_miner(build(RunConfig, {"evaluate": {"precision": "fp32"}}), str(made / "leace"))
    library = SentenceTransformer(str(made / "leace"), device="cpu")
    texts = [tiny_corpus.question("fr", 2)]
    assert np.allclose(miner.queries(texts), library.encode_query(texts), atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "means"}, "there is no method 'means'; write mean, projection, leace"),
        ({"method": "mean", "rank": 1}, "a rank is .* projection and leace remove; leave it out"),
        ({"items": 0}, "items is 0; write 1 or more"),
        ({"out": "faq"}, "faq holds something other than a model of hbt debias; write another --out"),
        ({"model": "dot"}, "compares by dot product or truncates its vectors"),
        ({"model": "truncated"}, "compares by dot product or truncates its vectors"),
    ],
)
def test_what_cannot_be_done_is_refused(made, tmp_path, changed, message):
    arguments = {"model": "model", "out": "new", **changed}
    model, out = made / str(arguments.pop("model")), made / str(arguments.pop("out"))
    if model.name in model_folders.KINDS:
        model = model_folders.KINDS[model.name](tmp_path / "kind")
    with pytest.raises(ConfigError, match=message):
        debias_model(model, corpora(made), out, **arguments)
    assert not (made / "new").exists()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_command_says_what_was_removed_and_on_what_it_was_fitted(made, tmp_path):
    options = ("--corpora", str(made / "faq"), "--out", str(tmp_path / "x"), "--items", "12")
    for options_of_method, removed in (((), "2 directions, by "), (("--method", "mean"), "the mean of each language")):
        result = run("debias", str(made / "model"), *options, *options_of_method)
        assert result.exit_code == 0, result.output
        assert f"removed  {removed}" in result.stdout
        assert "on 12 items in each of 3 languages (de en fr); 12 of them are in all" in result.stdout
    other = f"pairs={write_different(tmp_path / 'different', range(3))}"
    two = run("debias", str(made / "model"), *options, "--languages", "de,fr", "--exclude", other)
    assert "in each of 2 languages (de fr)" in two.stdout
    assert "without 0 items that occur in pairs" in two.stdout


def test_command_reads_the_corpora_of_a_file_of_settings(made, tmp_path, caplog):
    file = tmp_path / "faq.yaml"
    file.write_text(f"corpora: [{{format: jsonl, path: {made / 'faq'}, languages: [de, en]}}]\n")
    with caplog.at_level(logging.ERROR):
        result = run("debias", str(made / "model"), "--corpora", str(file), "--out", str(tmp_path / "x"))
    assert "in each of 2 languages (de en)" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--corpora", "absent"), "there is nothing at 'absent'; correct the path"),
        (("--corpora", "embedded", "--languages", "en,xx"), "the embedded corpus is not in xx; there are am"),
        (("--corpora", "embedded", "--corpora", "embedded"), "two corpora are called 'embedded'"),
        (("--corpora", "embedded", "--languages", "en"), "one language only, en"),
    ],
)
def test_a_mistake_is_one_sentence(made, tmp_path, options, message):
    result = run("debias", str(made / "model"), *options, "--out", str(tmp_path / "x"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.rstrip("\n").count("\n") == 0
