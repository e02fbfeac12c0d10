"""`hbt study paper`: the published set-up, run whole on tiny random encoders of the published classes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hbt_ray.cluster.pipelines.study import study
from hbt_ray.config import load_config
from hbt_ray.study.config import load_study, study_file
from tests.helpers import tiny_corpus
from tests.helpers.model_folders import write_labse, write_xlm_roberta
from tests.helpers.slow import slow

ONE_LANGUAGE = ("mrtydi", "mfaq")
CORPORA = ("wikiqa", "duorc", "newsqa", "nq", "yahoo-qa", "entity-questions", "mmarco", *ONE_LANGUAGE)
SHORT = (
    *("seeds=[0]", "run.steps=4", "run.global_batch_pairs=4", "run.chunk_pairs=4", "run.validation_every=2"),
    *("run.train.precision=fp32", "run.evaluate.precision=fp32", "run.prepare.validation_share=0.2"),
    *("run.prepare.near_duplicate_threshold=1", "run.max_passage_tokens=64", "run.checkpoint_every=2"),
)


def write_data(folder: Path) -> list[str]:
    """Write the corpora of the study and XQuAD-R's files in small; return the training texts."""
    texts = []
    for number, name in enumerate(CORPORA):
        (folder / "paper" / name).mkdir(parents=True)
        for language in ("en",) if name in ONE_LANGUAGE else tiny_corpus.LANGUAGES:
            rows = [
                {
                    "id": str(item),
                    "question": tiny_corpus.question(language, item),
                    "context": tiny_corpus.passage(language, item),
                    "negatives": [tiny_corpus.negative(language, item, 0)],
                }
                for item in range(100 * number, 100 * number + 30)
            ]
            texts += [f"Query: {row['question']} Passage: {row['context']}" for row in rows]
            (folder / "paper" / name / f"{language}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "xquad-r").mkdir()
    for language in tiny_corpus.LANGUAGES:
        paragraphs = []
        for item in range(5000, 5012):
            context = tiny_corpus.passage(language, item)
            answers = [{"text": str(item), "answer_start": context.index(str(item))}]
            question = {"id": f"q{item}", "question": tiny_corpus.question(language, item), "answers": answers}
            paragraphs.append({"context": context, "sentence_breaks": [[0, len(context)]], "qas": [question]})
        document = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
        (folder / "xquad-r" / f"{language}.json").write_text(json.dumps(document))
    return texts


@slow
@pytest.mark.parametrize(("preset", "write_model"), [(None, write_xlm_roberta), ("labse", write_labse)])
def test_published_setup_runs_whole_on_tiny_encoders(
    cluster: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preset: str | None,
    write_model: Callable[[Path, Sequence[str]], Path],
):
    monkeypatch.setenv("HBT_DATA", str(tmp_path))
    monkeypatch.setenv("HBT_MODELS", str(tmp_path))
    model = write_model(tmp_path / "encoder", write_data(tmp_path))
    debiased = ("methods.debiased={trained: false, encoder_of: hybrid, debiased: mean}", "debias_items=20")
    fair = "methods.fair={settings: {mix.strategy: one-to-k, mix.positive_languages: 3}, tokens_of: hybrid}"
    overrides = (*SHORT, *debiased, fair, f"run.model.path={model}", f"run.tracking.uri=sqlite:///{tmp_path}/mlflow.db")
    config = load_study(study_file("paper"), overrides, preset)
    assert (config.run.mix.hard_negatives, config.run.text.query_prefix) == (1, "Query: ")
    finished = study(config, tmp_path / "out", "hbt study paper")
    measures = json.loads((tmp_path / "out/summary.json").read_text())["measures"]
    assert list(measures) == [metric for metric in config.measures if metric.startswith("xquad-r")]
    values = measures["xquad-r/multi/map"]
    assert list(values) == ["untrained", "x-x-mono", "x-y", "hybrid", "debiased", "fair"]
    assert all(one != other for one, other in itertools.combinations(values.values(), 2))
    assert not (tmp_path / "out/cells/debiased/seed-0/model").exists()
    assert load_config(tmp_path / "out/cells/fair/seed-0/run.yaml").train.steps < config.run.train.steps
    text = (tmp_path / "out/report.md").read_text()
    assert "Not evaluated on mlqa-r, miracl: the files were not there." in text
    assert "LaBSE, Elmahdy, Lin and Ahmad 2024, arXiv 2408.10536:" in text
    assert finished.page.exists()
