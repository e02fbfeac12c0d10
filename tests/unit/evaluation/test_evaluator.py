"""One pass over the scores gives the three settings, and averages are macro."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest

from hbt_ray.bench.evaluation import map_by_pool, reference_map_by_pool
from hbt_ray.config import EvaluateConfig
from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.errors import CorpusError, UserError
from hbt_ray.evaluation import metrics
from hbt_ray.evaluation.evaluator import EvalReport, evaluate_benchmark
from hbt_ray.retrieval.passage_index import PassageIndex
from hbt_ray.retrieval.passage_shard import PassageIndexShard

LANGUAGES = ("de", "en", "tr")


class TableEmbedder:
    """Looks vectors up by text."""

    def __init__(self, vectors: dict[str, np.ndarray]):
        self.vectors = vectors
        self.calls: list[int] = []

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(len(texts))
        vectors = np.array([self.vectors[text] for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    passages = queries


def parallel_benchmark(items: int = 5, languages: Sequence[str] = LANGUAGES, name: str = "tiny") -> Benchmark:
    """Every item has a query and a passage in every language: question text `q:de:3`, passage text `p:de:3`."""
    return Benchmark(
        name,
        [Query(f"{language}:{n}", language, f"q:{language}:{n}") for language in languages for n in range(items)],
        [Passage(f"{language}:{n:02}", language, f"p:{language}:{n}") for language in languages for n in range(items)],
        {
            f"{language}:{n}": {f"{other}:{n:02}": 1 for other in languages}
            for language in languages
            for n in range(items)
        },
    )


def topic_embedder(benchmark: Benchmark, noise: float = 0.0, bias: float = 0.0) -> TableEmbedder:
    """Texts of the same item lie together, moved by noise and towards their language."""
    rng = np.random.default_rng(0)
    items = sorted({query.text.split(":")[2] for query in benchmark.queries})
    width = len(items) + len(benchmark.languages)
    vectors = {}
    for text in [query.text for query in benchmark.queries] + [passage.text for passage in benchmark.passages]:
        _, language, item = text.split(":")
        vector = noise * rng.standard_normal(width)
        vector[items.index(item)] += 1
        vector[len(items) + benchmark.languages.index(language)] += bias
        vectors[text] = vector
    return TableEmbedder(vectors)


def _evaluate(benchmark: Benchmark, embedder: TableEmbedder, depth: int = 100) -> EvalReport:
    return evaluate_benchmark(embedder, benchmark, EvaluateConfig(run_depth=depth))


def test_perfect_embedding_has_map_one_and_minimal_rank_distance():
    benchmark = parallel_benchmark()
    report = _evaluate(benchmark, topic_embedder(benchmark))
    assert [report.metrics[f"tiny/{setting}/map"] for setting in ("mono", "cross", "multi")] == [1, 1, 1]
    assert report.metrics["tiny/multi/rank_distance"] == len(LANGUAGES) - 1
    assert report.metrics["tiny/multi/recall@1"] == pytest.approx(1 / len(LANGUAGES))
    assert (report.matrix == 1).all()


def test_embedding_that_separates_languages_is_biased():
    benchmark = parallel_benchmark()
    report = _evaluate(benchmark, topic_embedder(benchmark, bias=3))
    assert report.metrics["tiny/mono/map"] == report.metrics["tiny/cross/map"] == 1
    # First the own passage, then the 4 others of the language, then those of the item in the 2 other languages:
    # they score equal, at ranks 6 and 7.
    assert report.metrics["tiny/multi/rank_distance"] == 7 - 1
    assert report.metrics["tiny/multi/map"] == pytest.approx((1 / 1 + 2 / 6 + 3 / 7) / 3)


def test_each_setting_equals_a_benchmark_of_that_pool():
    benchmark = parallel_benchmark(12)
    embedder = topic_embedder(benchmark, noise=0.5, bias=0.3)
    report = _evaluate(benchmark, embedder)
    cross = []
    for query_language in LANGUAGES:
        for passage_language in LANGUAGES:
            pool = [passage for passage in benchmark.passages if passage.language == passage_language]
            queries = [query for query in benchmark.queries if query.language == query_language]
            vectors = embedder.queries([q.text for q in queries]), embedder.passages([p.text for p in pool])
            ranks = PassageIndex.of(PassageIndexShard(vectors[1])).ranks(vectors[0], np.arange(12)[:, None])[0]
            expected = metrics.average_precision(ranks).mean()
            name = (
                f"tiny/mono/map/{query_language}"
                if query_language == passage_language
                else f"tiny/cross/map/{query_language}-{passage_language}"
            )
            assert report.metrics[name] == pytest.approx(expected)
            assert report.matrix[LANGUAGES.index(query_language), LANGUAGES.index(passage_language)] == pytest.approx(
                expected
            )
            if query_language != passage_language:
                cross.append(expected)
    assert report.metrics["tiny/cross/map"] == pytest.approx(np.mean(cross))
    assert 0 < report.metrics["tiny/cross/map"] < 1


def test_averages_are_over_languages_not_over_queries():
    benchmark = parallel_benchmark()
    # German keeps one question; its average counts as much as that of five English ones.
    queries = [query for query in benchmark.queries if query.language != "de" or query.query_id == "de:0"]
    judgements = {query.query_id: benchmark.judgements[query.query_id] for query in queries}
    report = _evaluate(replace(benchmark, queries=queries, judgements=judgements), topic_embedder(benchmark, noise=0.7))
    by_language = [report.metrics[f"tiny/mono/map/{language}"] for language in LANGUAGES]
    assert report.metrics["tiny/mono/map"] == pytest.approx(np.mean(by_language))


def test_language_pair_counts_queries_with_a_judgement_in_it():
    benchmark = parallel_benchmark()
    judgements = {key: dict(judged) for key, judged in benchmark.judgements.items()}
    for language in LANGUAGES:  # item 0 has no Turkish passage
        del judgements[f"{language}:0"]["tr:00"]
    del judgements["en:1"]
    report = _evaluate(replace(benchmark, judgements=judgements), topic_embedder(benchmark))
    table = report.per_query.to_pandas()
    cells = table[table.setting != "multi"].groupby(["language", "passage_language"]).size()
    assert cells["en", "tr"] == 3
    assert cells["de", "tr"] == cells["tr", "tr"] == cells["en", "de"] == 4
    assert cells["de", "de"] == cells["en", "en"] == 5  # the question without judgements counts 0 in its language
    assert report.metrics["tiny/mono/map/en"] == pytest.approx(4 / 5)
    assert report.metrics["tiny/cross/map/en-tr"] == 1
    # In the pool of all, the question without judgements counts 0. For item 0 the Turkish passage, no longer
    # relevant, still scores as the others do, and its greater id puts it first: they stand at ranks 2 and 3.
    assert report.metrics["tiny/multi/map/en"] == pytest.approx((3 * 1 + (1 / 2 + 2 / 3) / 2 + 0) / 5)
    assert report.counts["queries_without_relevant"] == 1
    # Rank distance is over those with two relevant passages: 1 for item 0, 2 for the others.
    assert report.metrics["tiny/multi/rank_distance/en"] == pytest.approx((1 + 3 * 2) / 4)


def test_a_passage_that_the_pool_lacks_is_relevant_and_never_found():
    whole = parallel_benchmark()
    lost = {"de:00": "de", "tr:01": "tr"}
    passages = [passage for passage in whole.passages if passage.passage_id not in lost]
    benchmark = replace(whole, passages=passages, absent=lost)
    report = _evaluate(benchmark, topic_embedder(whole))
    for language in LANGUAGES:
        expected = {"de": 4 / 5, "tr": 4 / 5, "en": 1}
        for other in LANGUAGES:
            cell = "mono/map/" + language if other == language else f"cross/map/{language}-{other}"
            assert report.metrics[f"tiny/{cell}"] == expected[other]
        # Two questions find two of their three passages at the first two ranks.
        assert report.metrics[f"tiny/multi/map/{language}"] == pytest.approx((3 + 2 * 2 / 3) / 5)
    assert report.counts["relevant_passages_absent"] == 2


def test_a_language_without_any_passage_is_counted_as_never_found():
    whole = parallel_benchmark()
    lost = {passage.passage_id: "tr" for passage in whole.passages if passage.language == "tr"}
    passages = [passage for passage in whole.passages if passage.language != "tr"]
    report = _evaluate(replace(whole, passages=passages, absent=lost), topic_embedder(whole))
    assert report.metrics["tiny/mono/map/tr"] == report.metrics["tiny/cross/map/de-tr"] == 0
    assert report.metrics["tiny/mono/map"] == pytest.approx(2 / 3)


def test_bias_metrics_need_relevant_passages_in_two_languages():
    benchmark = parallel_benchmark()
    report = _evaluate(benchmark, topic_embedder(benchmark, bias=3))
    assert report.metrics["tiny/multi/same_language_first"] == 1
    fair = _evaluate(benchmark, topic_embedder(benchmark))
    # All three tie, and the greatest id ranks first: that of Turkish.
    assert [fair.metrics[f"tiny/multi/same_language_first/{x}"] for x in LANGUAGES] == [0, 0, 1]
    apart = replace(benchmark, judgements={f"de:{n}": {f"de:{n:02}": 1, f"de:{4 - n:02}": 1} for n in range(5)})
    report = _evaluate(replace(apart, queries=apart.queries[:5]), topic_embedder(benchmark))
    assert not [name for name in report.metrics if "rank_distance" in name or "same_language" in name]


def test_the_gap_is_mono_minus_the_mean_of_cross():
    benchmark = parallel_benchmark(12)
    found = _evaluate(benchmark, topic_embedder(benchmark, noise=0.6)).metrics
    for language in LANGUAGES:
        cross = np.mean([found[f"tiny/cross/map/{language}-{other}"] for other in LANGUAGES if other != language])
        assert found[f"tiny/gap/map/{language}"] == pytest.approx(found[f"tiny/mono/map/{language}"] - cross)
    assert found["tiny/gap/map"] == pytest.approx(found["tiny/mono/map"] - found["tiny/cross/map"])


def test_parallel_texts_are_aligned_and_their_rankings_compared():
    plain = parallel_benchmark()
    queries = [replace(query, group=query.query_id.split(":")[1]) for query in plain.queries]
    benchmark = replace(plain, queries=queries)
    found = _evaluate(benchmark, topic_embedder(benchmark)).metrics
    assert found["tiny/alignment/cosine/de-en"] == found["tiny/passage_alignment/recall@1/tr-de"] == pytest.approx(1)
    assert found["tiny/alignment/cosine_of_others"] == pytest.approx(0)
    assert found["tiny/multi/consistency"] == pytest.approx(1)
    assert not [name for name in _evaluate(plain, topic_embedder(plain)).metrics if "alignment" in name]


def test_no_metric_depends_on_the_length_of_the_run_file():
    plain = parallel_benchmark(30)
    queries = [replace(query, group=query.query_id.split(":")[1]) for query in plain.queries]
    benchmark = replace(plain, queries=queries)
    one, other = (
        evaluate_benchmark(topic_embedder(benchmark, noise=0.9), benchmark, EvaluateConfig(run_depth=depth)).metrics
        for depth in (1, 100)
    )
    assert one == other
    assert 0 < one["tiny/multi/consistency"] < 1


def test_peer_needs_several_relevant_passages_of_a_language():
    benchmark = parallel_benchmark(6)
    assert not [name for name in _evaluate(benchmark, topic_embedder(benchmark)).metrics if "peer" in name]
    two = {key: {**judged, "en:05": 1, "de:05": 1} for key, judged in benchmark.judgements.items()}
    fair = _evaluate(replace(benchmark, judgements=two), topic_embedder(benchmark)).metrics["tiny/multi/peer@100"]
    apart = _evaluate(replace(benchmark, judgements=two), topic_embedder(benchmark, bias=3)).metrics
    assert 0 <= apart["tiny/multi/peer@100"] < fair <= 1


def test_resource_levels_are_averaged_separately():
    languages = ("fi", "sw", "yo")  # mid, low and low
    benchmark = parallel_benchmark(8, languages)
    found = _evaluate(benchmark, topic_embedder(benchmark, noise=0.8)).metrics
    low = np.mean([found[f"tiny/mono/ndcg@10/{language}"] for language in ("sw", "yo")])
    assert found["tiny/mono/ndcg@10/low-resource"] == pytest.approx(low)
    assert found["tiny/mono/ndcg@10/mid-resource"] == found["tiny/mono/ndcg@10/fi"]


def test_one_language_has_no_cross_and_multi_equals_mono():
    benchmark = parallel_benchmark(languages=("en",))
    report = _evaluate(benchmark, topic_embedder(benchmark, noise=0.9))
    assert not [name for name in report.metrics if "/cross/" in name or "rank_distance" in name]
    assert report.metrics["tiny/mono/map"] == report.metrics["tiny/multi/map"]
    assert set(report.per_query["setting"].to_pylist()) == {"mono", "multi"}


def test_language_without_any_relevant_passage_counts_zero():
    benchmark = parallel_benchmark()
    benchmark.judgements.update({f"de:{n}": {} for n in range(5)})
    report = _evaluate(benchmark, topic_embedder(benchmark))
    assert report.metrics["tiny/mono/map/de"] == report.metrics["tiny/multi/map/de"] == 0
    assert report.metrics["tiny/mono/map"] == pytest.approx(2 / 3)


def test_benchmark_without_relevant_passages_has_zero_metrics():
    benchmark = parallel_benchmark()
    nothing = replace(benchmark, judgements={})
    assert _evaluate(nothing, topic_embedder(benchmark)).metrics["tiny/multi/map"] == 0


def test_excluded_passage_is_left_out_of_the_ranking():
    # As in ArguAna: the query itself is among the passages that are searched, and nearest to itself.
    benchmark = Benchmark(
        "beir-tiny",
        [Query("a", "en", "q:en:0"), Query("c", "en", "q:en:2")],
        [Passage(key, "en", f"p:en:{n}") for n, key in enumerate("abc")],
        {"a": {"b": 1}, "c": {"c": 1, "b": 1}},
        excluded={"a": "a", "c": "c"},
    )
    near = {"q:en:0": [3, 2, 1], "q:en:2": [1, 2, 3], "p:en:0": [1, 0, 0], "p:en:1": [0, 1, 0], "p:en:2": [0, 0, 1]}
    report = _evaluate(benchmark, TableEmbedder({text: np.array(vector) for text, vector in near.items()}), depth=2)
    assert report.per_query.filter(pc.field("setting") == "multi")["ranks"].to_pylist() == [[1], [1]]
    # The second query's own passage is judged relevant, and can never be found.
    assert report.metrics["beir-tiny/mono/map"] == (1 + 1 / 2) / 2
    assert report.run.passage_indices.tolist() == [[1, 2], [1, 0]]


def test_passages_missed_by_an_index_do_not_reduce_bias(monkeypatch):
    monkeypatch.setattr("hbt_ray.retrieval.passage_shard.MIN_APPROXIMATE_VECTORS", 1)
    benchmark = parallel_benchmark(40)
    embedder = topic_embedder(benchmark, noise=0.2, bias=3)
    exact = _evaluate(benchmark, embedder)
    passages = embedder.passages([passage.text for passage in benchmark.passages])
    shards = [PassageIndexShard(passages[first : first + 40], first, "hnsw") for first in (0, 40, 80)]
    near = evaluate_benchmark(embedder, benchmark, EvaluateConfig(), PassageIndex.of(*shards, depth=30))
    table = near.per_query.filter(pc.field("setting") == "multi")
    first = np.array([ranks[0] for ranks in table["ranks"].to_pylist()])
    # Answers in other languages stand beyond the 40 passages of the own one: none is listed.
    assert exact.metrics["tiny/multi/rank_distance"] > 40
    assert near.metrics["tiny/multi/rank_distance@30"] == pytest.approx(31 - first.mean())
    assert near.metrics["tiny/multi/max_rank@30"] == 31
    assert near.metrics["tiny/multi/complete@20"] == 0
    assert near.intervals.keys() == {"tiny/gap/map@30"}  # pools of one size need all ranks
    assert near.metrics["tiny/multi/same_language_first@30"] == exact.metrics["tiny/multi/same_language_first"] == 1
    assert near.index_recall.keys() == {"all", *LANGUAGES}


def test_non_contiguous_languages_give_equal_metrics():
    benchmark = parallel_benchmark(8)
    embedder = topic_embedder(benchmark, noise=0.4, bias=0.2)
    new_id = {passage.passage_id: ":".join(reversed(passage.passage_id.split(":"))) for passage in benchmark.passages}
    mixed = replace(
        benchmark,
        passages=sorted(
            (replace(passage, passage_id=new_id[passage.passage_id]) for passage in benchmark.passages),
            key=lambda passage: passage.passage_id,
        ),
        judgements={
            key: {new_id[p]: grade for p, grade in judged.items()} for key, judged in benchmark.judgements.items()
        },
    )
    assert _evaluate(mixed, embedder).metrics == pytest.approx(_evaluate(benchmark, embedder).metrics)


def test_per_query_table_has_the_ranks():
    benchmark = parallel_benchmark()
    report = _evaluate(benchmark, topic_embedder(benchmark, bias=3))
    rows = report.per_query.to_pylist()
    assert len(rows) == 15 * (len(LANGUAGES) + 1)
    row = next(row for row in rows if row["query_id"] == "en:2" and row["setting"] == "multi")
    assert row["passage_language"] is None
    assert (row["ranks"], row["relevant"], row["rank_distance"]) == ([1, 6, 7], 3, 6)
    mono = next(row for row in rows if row["query_id"] == "en:2" and row["setting"] == "mono")
    assert (mono["passage_language"], mono["ranks"], mono["ap"], mono["rank_distance"]) == ("en", [1], 1, None)


def test_equal_texts_are_embedded_once():
    benchmark = parallel_benchmark()
    passages = [replace(passage, text="p:en:0") for passage in benchmark.passages]
    embedder = topic_embedder(benchmark)
    report = _evaluate(replace(benchmark, passages=passages), embedder)
    assert embedder.calls == [15, 1]
    # All 15 passages tie, and the greater id ranks first.
    assert report.run.passage_indices[0].tolist() == list(range(14, -1, -1))


def test_sample_has_queries_and_relevant_passages_of_each_language():
    benchmark = parallel_benchmark(60)
    sample = _evaluate(benchmark, topic_embedder(benchmark, noise=0.1)).sample
    assert len(sample.vectors) == len(sample.languages) == len(sample.sides)
    for language in LANGUAGES:
        sides = [side for one, side in zip(sample.languages, sample.sides, strict=True) if one == language]
        assert sides.count("question") == sides.count("passage") == 40


def test_a_diverged_model_is_refused():
    benchmark = parallel_benchmark()
    embedder = topic_embedder(benchmark)
    embedder.vectors["q:en:0"] = np.full_like(embedder.vectors["q:en:0"], np.nan)
    with pytest.raises(UserError, match="questions hold NaN"):
        _evaluate(benchmark, embedder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: replace(b, queries=[]), "0 queries"),
        (lambda b: replace(b, passages=b.passages[::-1]), "not sorted"),
        (lambda b: replace(b, queries=[*b.queries, b.queries[0]]), "twice"),
        (lambda b: replace(b, queries=[replace(b.queries[0], query_id="a b")]), "blanks"),
        (lambda b: replace(b, judgements={"en:0": {"xx": 1}}), "'xx', which is not in it"),
    ],
)
def test_invalid_benchmark_is_refused(change, message: str):
    benchmark = parallel_benchmark()
    with pytest.raises(CorpusError, match=message):
        _evaluate(change(benchmark), topic_embedder(benchmark))


def test_xquad_r_with_random_vectors_is_as_biased_as_chance(xquad_r: Benchmark):
    class Chance:
        def queries(self, texts: Sequence[str]) -> np.ndarray:
            return np.random.default_rng(len(texts)).standard_normal((len(texts), 16), dtype=np.float32)

        passages = queries

    questions = xquad_r.queries[::5]  # of almost all paragraphs
    judgements = {query.query_id: xquad_r.judgements[query.query_id] for query in questions}
    fifth = replace(xquad_r, queries=questions, judgements=judgements)
    report = evaluate_benchmark(Chance(), fifth, EvaluateConfig(run_depth=1))
    assert len([name for name in report.metrics if name.startswith("xquad-r/cross/map/")]) == 110
    # 10 / 12 * 13,015; questions share their passages, so that the spread is that of 240 paragraphs, not of 13,090.
    assert report.metrics["xquad-r/multi/rank_distance"] == pytest.approx(10_846, rel=0.03)


def test_bench_map_equals_sentence_transformers_evaluator():
    benchmark = parallel_benchmark(12)
    embedder = topic_embedder(benchmark, noise=0.5, bias=0.3)
    queries = embedder.queries([query.text for query in benchmark.queries])
    passages = embedder.passages([passage.text for passage in benchmark.passages])
    ours, theirs = (maps(benchmark, queries, passages) for maps in (map_by_pool, reference_map_by_pool))
    assert len(theirs) == 3 * (3 + 1)
    assert theirs == pytest.approx(ours, abs=1e-9)
    assert 0 < sum(theirs.values()) < len(theirs)
