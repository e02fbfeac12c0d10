"""Settings: reading, checks, fingerprints, and messages that name the key and a remedy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import (
    CorpusConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainConfig,
    build_config,
    dump_config,
    flatten,
    load_config,
    replace_in,
    with_absolute_paths,
    with_settings,
)
from hbt_ray.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_settings_absent_from_a_file_have_their_defaults(tmp_path):
    config = load_config(written(tmp_path, "name: mine\nmix:\n  alpha: 0.25\n"))
    assert (config.name, config.mix.alpha) == ("mine", 0.25)
    assert config.train == TrainConfig()


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_empty_file_gives_the_defaults(tmp_path, text):
    assert load_config(written(tmp_path, text)) == RunConfig() == load_config()


def test_later_overrides_win_over_earlier_ones_and_the_file(tmp_path):
    file = written(tmp_path, "mix: {alpha: 0.25, hard_negatives: 3}\n")
    mix = load_config(file, ["mix.alpha=0.5", "mix.alpha=0.75"]).mix
    assert (mix.alpha, mix.hard_negatives) == (0.75, 3)


def test_key_may_be_shortened_to_a_unique_last_part():
    config = load_config(None, ["alpha=0.6", "steps=7", "small.width=64", "patience=2", "validation_every=5"])
    assert (config.mix.alpha, config.train.steps, config.model.small.width) == (0.6, 7, 64)
    assert config.train.early_stopping is not None
    assert config.train.early_stopping.patience == 2
    # Not a candidate: "path" of a corpus, which is in a list and has no key.
    assert load_config(None, ["path=some/model"]).model.path == "some/model"


def test_ambiguous_short_key_is_refused_with_both_meanings():
    with pytest.raises(ConfigError, match=r"'precision' may mean train\.precision or evaluate\.precision; write one"):
        load_config(None, ["precision=fp32"])


def test_values_of_overrides_are_yaml():
    config = load_config(
        None,
        ["languages=[de, en]", "gpu=no", "learning_rate=1e-3", "dropout=null", "corpora=[{format: jsonl, path: x/y}]"],
    )
    assert config.languages == ("de", "en")
    assert config.train.gpu is False
    assert config.train.learning_rate == 0.001
    assert config.model.dropout is None
    assert config.corpora == (CorpusConfig(format="jsonl", path="x/y", name="y"),)


@pytest.mark.parametrize("text", ["query: ", "no", "1.10", "2024-01-01", "{a: b}", "[x", "#tag", "null", "", "a 'b'"])
def test_override_of_a_text_is_the_text_as_written(text):
    config = load_config(None, [f"query_prefix={text}", f"prepare.evaluation_sets.pairs=x{text}"])
    assert config.text.query_prefix == text
    assert config.prepare.evaluation_sets == {"pairs": f"x{text}"}


@pytest.mark.parametrize(("quoted", "text"), [("'a: b'", "a: b"), ('"a\\tb"', "a\tb"), ("''", "")])
def test_quoted_override_of_a_text_is_read_as_yaml(quoted, text):
    assert load_config(None, [f"query_prefix={quoted}"]).text.query_prefix == text


def test_override_of_a_text_that_may_be_null_can_be_null():
    assert [load_config(None, [f"model.path={text}"]).model.path for text in ("null", "", "~", "no")] == [
        *(None, None, None),
        "no",
    ]


def test_languages_that_yaml_would_take_for_booleans_are_texts(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("languages: [no, en, zh_CN]")
    assert load_config(file).languages == ("no", "en", "zh-CN")
    assert load_config(None, ["languages=[no, on]"]).languages == ("no", "on")


def test_benchmarks_and_evaluation_sets_are_named_by_override():
    config = load_config(None, ["evaluate.benchmarks.xquad-r=a/b", "prepare.evaluation_sets.embedded="])
    assert config.evaluate.benchmarks == {"xquad-r": "a/b"}
    assert config.prepare.evaluation_sets == {"embedded": None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("alhpa=0.6", "there is no setting 'alhpa'; did you mean 'mix.alpha'?"),
        ("train.stepz=3", "there is no setting 'train.stepz'; did you mean 'train.steps'?"),
        ("alpha", "'alpha' is not an override; write key=value, such as alpha=0.6"),
        ("alpha=[1", "the value of mix.alpha=[1 is not valid YAML"),
        ("alpha=2", "mix.alpha is 2: input should be less than or equal to 1"),
        ("alpha=-0.1", "mix.alpha is -0.1: input should be greater than or equal to 0"),
        ("alpha=much", "mix.alpha is 'much': "),
        ("corpora.path=x", "corpora is a list; write all of it, such as corpora="),
    ],
)
def test_wrong_override_is_refused_with_its_key_and_a_remedy(override, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mix: {aplha: 1}", "there is no setting 'mix.aplha'; did you mean 'alpha'?"),
        ("trian: {}", "there is no setting 'trian'; did you mean 'train'?"),
        (
            "corpora: [{format: jsonl, path: x, columns: {questoin: q}}]",
            "there is no setting 'corpora.0.columns.questoin'; did you mean 'question'?",
        ),
        ("train: {early_stopping: {patienc: 3}}", "'train.early_stopping.patienc'; did you mean 'patience'?"),
        ("mix: {strategy: y-y}", "mix.strategy is 'y-y'"),
        ("corpora: [{format: jsonl}]", "corpora.0: a corpus of format 'jsonl' needs a path"),
        ("corpora: []", "corpora is empty; name at least one"),
        ("corpora: [{format: squad, path: a/x}, {format: jsonl, path: b/x}]", "two corpora are called 'x'"),
        ("corpora: [{format: squad, path: a/x}, {format: jsonl, path: b/X}]", "the corpora 'x' and 'X' have one file"),
        (
            "evaluate: {benchmarks: {beir/a/b: c, beir/a-b: d}}",
            "the benchmarks 'beir/a/b' and 'beir/a-b' have one file",
        ),
        (
            "evaluate: {benchmarks: {beir/a: c, beir/a-typos: d}, perturbations: [typos]}",
            "the benchmarks 'beir/a-typos' and 'beir/a-typos' have one file",
        ),
        ("train: {early_stopping: {}}", "early_stopping needs validation_every"),
        ("model: {small: {width: 10, heads: 4}}", "width 10 must be a multiple of heads 4"),
        ("mix: {alpha: 2}\nseed: -1", "seed is -1"),  # all mistakes are reported at once
        ("- alpha", "must hold settings as 'key: value', not a list"),
        ("mix: [", "is not valid YAML"),
        ("seed: 1\nmix: {}\nseed: 2", "has the key 'seed' twice in one section; keep one"),
        ("mix: &m\n  a: *m", "refers to itself by the alias in line"),
        ("a: " + "[" * 5000, "is nested too deeply"),
        ("a: " + "x" * 600_000, "has more than 500000 characters; shorten it or raise HBT_MAX_CONFIG_BYTES"),
        ("mix: {alpha: 0.5", "is not valid YAML"),
    ],
)
def test_wrong_file_is_refused_in_one_sentence(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_configuration_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*absent\.yaml.*No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("pairs", "workers", "ways_out"),
    [(64, 3, "write 63 or 66"), (10, 4, "write 8 or 12"), (3, 4, "write 4$")],
)
def test_indivisible_batch_is_refused_with_divisible_sizes(pairs, workers, ways_out):
    with pytest.raises(ConfigError, match=f"{pairs} is not divisible by workers {workers}; {ways_out}"):
        build_config({"train": {"global_batch_pairs": pairs, "workers": workers}})


@pytest.mark.parametrize(
    ("pairs", "workers", "chunk", "way_out"),
    [(24, 2, 8, "chunk_pairs=4"), (8, 1, 3, "chunk_pairs=1"), (8, 2, 16, "=4")],
)
def test_chunk_across_workers_is_refused_with_sizes_that_fit(pairs, workers, chunk, way_out):
    train = {"global_batch_pairs": pairs, "workers": workers, "chunk_pairs": chunk}
    with pytest.raises(ConfigError, match=f"{pairs // workers} pairs are not whole chunks .*{way_out}$"):
        build_config({"train": train})
    build_config({"train": train | {"chunk_pairs": math.gcd(pairs // workers, chunk)}})


def test_batch_smaller_than_a_chunk_is_valid_on_one_worker():
    assert build_config({"train": {"global_batch_pairs": 8, "chunk_pairs": 16}}).train.workers == 1


@pytest.mark.parametrize("languages", [[], ["de", "en", "de"]])
def test_languages_are_at_least_one_and_each_once(languages):
    with pytest.raises(ConfigError, match="languages: name at least one language, and each once"):
        build_config({"languages": languages})
    with pytest.raises(ConfigError, match=r"corpora\.0\.languages: name at least one"):
        build_config({"corpora": [{"format": "embedded", "languages": languages}]})


def test_paths_that_exist_are_made_absolute_and_hub_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    config = load_config(
        None,
        [
            "corpora=[{format: jsonl, path: rows, name: r}, {format: huggingface, path: org/name}]",
            "model.path=org/model",
            "prepare.evaluation_sets.xquad-r=rows",
            "evaluate.benchmarks.xquad-r=./rows",
        ],
    )
    absolute = with_absolute_paths(config)
    assert [c.path for c in absolute.corpora] == [str(tmp_path / "rows"), "org/name"]
    assert absolute.corpora[0].name == "r"
    assert absolute.model.path == "org/model"
    assert absolute.prepare.evaluation_sets == absolute.evaluate.benchmarks == {"xquad-r": str(tmp_path / "rows")}
    assert with_absolute_paths(absolute) == absolute


def test_replaced_setting_changes_and_no_other():
    config = RunConfig()
    changed = replace_in(config, "train.checkpoint_every", 5)
    assert changed.train.checkpoint_every == 5
    assert replace_in(changed, "train.checkpoint_every", config.train.checkpoint_every) == config
    assert replace_in(config, "seed", 3).seed == 3


def test_settings_are_changed_by_their_full_keys_and_checked():
    changed = with_settings(RunConfig(), {"mix.alpha": 0.25, "loss.distillation.teacher": "there", "seed": 3})
    assert changed.loss.distillation is not None
    assert (changed.mix.alpha, changed.loss.distillation.teacher, changed.seed) == (0.25, "there", 3)
    with pytest.raises(ConfigError, match=r"mix\.alpha is 2"):
        with_settings(RunConfig(), {"mix.alpha": 2})


def test_runs_with_equal_data_and_model_settings_share_a_store():
    config = RunConfig()
    assert with_settings(config, {"train.steps": 5, "mix.alpha": 0.1}).store_key == config.store_key
    assert with_settings(config, {"model.dropout": 0.3}).store_key != config.store_key
    other_seed = replace_in(config, "seed", 1)
    assert (other_seed.store_key, other_seed.model_key != config.model_key) == (config.store_key, True)


@pytest.mark.parametrize("settings", [{"evaluate.split": "small"}, {"evaluate.benchmarks": {"squad": "x"}}])
def test_runs_with_other_evaluation_sets_share_no_store(settings: dict[str, object]):
    assert with_settings(RunConfig(), settings).store_key != RunConfig().store_key


def test_corpus_without_a_name_is_named_after_its_folder():
    assert CorpusConfig(format="jsonl", path="a/mine").name == "mine"
    assert CorpusConfig(format="jsonl", path="a/mine", name="other").name == "other"
    assert CorpusConfig(format="embedded").name == "embedded"
    assert [CorpusConfig(format="jsonl", path=path).name for path in (".", "/")] == ["jsonl", "jsonl"]


@pytest.mark.parametrize(("word", "exponent"), [("size", 1.0), ("uniform", 0.0), (0.3, 0.3), ("0.3", 0.3)])
def test_sampling_is_a_word_or_an_exponent(word, exponent):
    assert build_config({"mix": {"language_sampling": word}}).mix.language_sampling == exponent
    assert build_config({"mix": {"source_sampling": word}}).mix.source_sampling == exponent


@pytest.mark.parametrize("wrong", ["sizes", 1.5, -1])
def test_any_other_sampling_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"mix\.language_sampling is "):
        build_config({"mix": {"language_sampling": wrong}})


def test_environment_variables_are_replaced_in_every_text(tmp_path, monkeypatch):
    monkeypatch.setenv("HBT_TEST_ROOT", "/data")
    monkeypatch.setenv("HBT_TEST_NAME", "big")
    file = written(
        tmp_path,
        "name: ${HBT_TEST_NAME}-${HBT_TEST_NAME}\n"
        "corpora: [{format: jsonl, path: '${HBT_TEST_ROOT}/rows'}]\n"
        "prepare: {evaluation_sets: {xquad-r: '${HBT_TEST_ROOT}/xquad'}}\n",
    )
    config = load_config(file, ["model.path=${HBT_TEST_ROOT}/model"])
    assert config.name == "big-big"
    assert (config.corpora[0].path, config.corpora[0].name) == ("/data/rows", "rows")
    assert config.prepare.evaluation_sets == {"xquad-r": "/data/xquad"}
    assert config.model.path == "/data/model"


def test_missing_environment_variable_is_refused_by_name(monkeypatch):
    monkeypatch.delenv("HBT_TEST_ROOT", raising=False)
    with pytest.raises(ConfigError, match="needs the environment variable HBT_TEST_ROOT; export HBT_TEST_ROOT="):
        load_config(None, ["model.path=${HBT_TEST_ROOT}/model"])


@given(
    name=st.text(st.characters(exclude_characters="$", exclude_categories=["Cs"])),
    seed=st.integers(0, 2**63 - 1),
    alpha=st.floats(0, 1),
    rate=st.floats(1e-12, 1e3),
    prefix=st.text(st.characters(exclude_characters="$", exclude_categories=["Cs"])),
    languages=st.none() | st.lists(st.sampled_from(["no", "de", "zh-Hant", "on", "null"]), min_size=1, unique=True),
    sampling=st.sampled_from(["size", "uniform", 0.5]),
)
def test_dumped_configuration_loads_equal(tmp_path_factory, name, seed, alpha, rate, prefix, languages, sampling):
    config = build_config(
        {
            "name": name,
            "seed": seed,
            "languages": languages,
            "text": {"query_prefix": prefix},
            "mix": {"alpha": alpha, "language_sampling": sampling},
            "train": {"learning_rate": rate, "validation_every": 1, "early_stopping": {}},
            "evaluate": {"benchmarks": {"embedded": None, "xquad-r": "a b"}},
        }
    )
    file = written(tmp_path_factory.getbasetemp(), dump_config(config))
    assert load_config(file) == config


def test_dump_has_every_setting():
    assert set(yaml.safe_load(dump_config(RunConfig()))) == set(RunConfig.model_fields)
    assert flatten(load_config(None, ["alpha=0.125"]))["mix.alpha"] == 0.125


def test_section_fingerprint_changes_with_its_settings_only():
    changed = [
        TextConfig(query_prefix="q: "),
        TextConfig(passage_prefix="p: "),
        TextConfig(max_query_tokens=65),
        TextConfig(max_passage_tokens=129),
    ]
    prints = [text.fingerprint() for text in (TextConfig(), *changed)]
    assert len(set(prints)) == 5
    assert TextConfig(max_query_tokens=64).fingerprint() == prints[0]
    assert all(len(one) == 16 and set(one) <= set("0123456789abcdef") for one in prints)


@pytest.mark.parametrize(
    "override",
    [
        "name=x",
        "seed=1",
        "languages=[de]",
        "corpora=[{format: jsonl, path: x}]",
        "items_per_shard=5",
        "query_prefix=x",
        "width=64",
        "alpha=0.1",
        "steps=5",
        "run_depth=7",
        "experiment=x",
    ],
)
def test_run_fingerprint_changes_with_any_setting(override):
    assert load_config(None, [override]).fingerprint() != RunConfig().fingerprint()


def test_settings_are_frozen_and_type_checked():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().mix.alpha = 0.1  # type: ignore[misc]
    with pytest.raises(ValueError, match="extra"):
        ModelConfig(pathh="x")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ({"alpha_schedule": {"points": [[5, 0.1], [0, 0.9]]}}, r"\[5, 0\] must ascend, such as"),
        ({"alpha_schedule": {"points": []}}, "alpha_schedule.points"),
        ({"strategy": "x-y", "alpha_schedule": {"points": [[0, 0.9]]}}, "x-y has no alpha to schedule"),
        ({"phases": [{"first_batch": 5}, {"first_batch": 5}]}, r"\[5, 5\] of the phases must ascend"),
        ({"alpha_schedule": {"points": [[0, 1]]}, "phases": [{"first_batch": 5, "alpha": 0}]}, "both set alpha"),
        ({"language_weights": {"de": 0}}, "language_weights"),
        ({"language_weights": {"zh-cn": 1, "zh-CN": 1}}, "name at least one language, and each once"),
    ],
)
def test_impossible_alpha_schedule_is_refused(mix, said):
    with pytest.raises(ConfigError, match=said):
        build_config({"mix": mix})


def test_dumped_prefix_with_a_yaml_line_end_loads_equal(tmp_path):
    config = build_config({"text": {"query_prefix": "a\x85b\u2028c: "}})
    assert load_config(written(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(("section", "key", "value"), [("mix", "positive_languages", 1), ("loss", "consistency", -0.1)])
def test_invalid_loss_or_mix_value_is_refused(section, key, value):
    with pytest.raises(ConfigError, match=rf"^{section}\.{key} is {value}: input should be greater than or equal to"):
        build_config({section: {key: value}})


def test_depth_of_an_index_is_refused_with_exact_search():
    with pytest.raises(ConfigError, match=r"^evaluate: index_depth has no effect with index: flat; leave it out"):
        build_config({"evaluate": {"index_depth": 500}})
    assert build_config({"evaluate": {"index_depth": 500, "index": "hnsw", "shards": 1}}).evaluate.index_depth == 500
    assert build_config({"evaluate": {"index_depth": 1000}}) == RunConfig()


def test_worker_with_one_pair_and_no_negative_is_refused():
    train = {"global_batch_pairs": 8, "chunk_pairs": 1, "workers": 8}
    with pytest.raises(ConfigError, match=r"only pair has no negatives .*; write train\.global_batch_pairs=16 or more"):
        build_config({"train": {**train, "gather_negatives": False}})
    build_config({"train": train})
    build_config({"train": {**train, "gather_negatives": False}, "mix": {"hard_negatives": 1}})
    build_config({"train": {**train, "gather_negatives": False, "workers": 4}})
    uneven = {"global_batch_pairs": 17, "chunk_pairs": 16, "workers": [2, 2], "gather_negatives": False}
    with pytest.raises(ConfigError, match="their number matters; write one number of workers"):
        build_config({"train": uneven})
