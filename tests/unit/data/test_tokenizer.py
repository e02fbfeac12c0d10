from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hbt_ray.config import ModelConfig, TextConfig
from hbt_ray.data.manifest import TextField
from hbt_ray.data.tokenizer import CHARS_PER_TOKEN, SPECIAL_TOKENS, PairTokenizer, load_tokenizer, train_tokenizer
from hbt_ray.errors import ConfigError
from tests.helpers import tiny_corpus

TEXTS = [
    "the cat sat on the mat",
    "die Katze saß auf der Matte",
    "le chat était assis",
    "猫はマットの上に座った",
    "кот",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 400)


@given(
    texts=st.lists(st.text(max_size=60), max_size=5),
    prefix=st.sampled_from(["", "Query: ", "query:"]),
    max_tokens=st.integers(4, 24),
)
@pytest.mark.parametrize("side", ["question", "passage"])
def test_tokens_equal_those_of_the_transformers_tokenizer(
    tokenizer: PreTrainedTokenizerFast, side: TextField, texts, prefix, max_tokens
):
    if side == "question":
        text = TextConfig(
            query_prefix=prefix, max_query_tokens=max_tokens, passage_prefix="other", max_passage_tokens=9
        )
    else:
        text = TextConfig(
            passage_prefix=prefix, max_passage_tokens=max_tokens, query_prefix="other", max_query_tokens=9
        )
    encoded = PairTokenizer(tokenizer, text).encode(texts, side)
    expected = [tokenizer(prefix + one, truncation=True, max_length=max_tokens)["input_ids"] for one in texts]
    assert [ids.tolist() for ids in encoded] == expected
    assert all(ids.dtype == np.uint16 for ids in encoded)


def built(model: Any, trainer: Any, pre_tokenizer: Any, *normalizer: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer of a model type, trained on TEXTS, with special tokens around a text."""
    made = Tokenizer(model(unk_token="[UNK]"))
    made.normalizer = normalizers.Sequence(list(normalizer))
    made.pre_tokenizer = pre_tokenizer
    special = [*SPECIAL_TOKENS.values()]
    made.train_from_iterator(TEXTS, trainer(vocab_size=300, special_tokens=special, show_progress=False))
    ends = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL_TOKENS)


@pytest.fixture(scope="module")
def tokenizers(tokenizer) -> dict[str, PreTrainedTokenizerFast]:
    """Return tokenizers as of models; all but the last tokenize words separately."""
    bpe, word_pieces = (models.BPE, trainers.BpeTrainer), (models.WordPiece, trainers.WordPieceTrainer)
    one_blank = normalizers.Replace(Regex(" {2,}"), " ")
    return {
        "trained": tokenizer,
        "bert": built(*word_pieces, pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()),
        "blanks are tokens": built(*bpe, pre_tokenizers.Metaspace()),
        "blanks are joined": built(*bpe, pre_tokenizers.Metaspace(), normalizers.NFKC(), one_blank),
        "bytes": built(*bpe, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    }


WORDS = st.sampled_from(["cat", "Katze", "кот", "猫はマット", "mat,", "a", "x" * 9, "é"])
BLANKS = st.sampled_from([" ", "  ", "   ", "\t", "\n", " \n ", " \u200b "])
LONG_TEXTS = st.lists(st.tuples(WORDS, BLANKS), min_size=1, max_size=30).map(lambda pairs: "".join(sum(pairs, ())))


@pytest.mark.parametrize("name", ["trained", "bert", "blanks are tokens", "blanks are joined", "bytes"])
@pytest.mark.parametrize("chars_per_token", [1, CHARS_PER_TOKEN])  # by 1 most heads are too short
@settings(deadline=None)
@given(texts=st.lists(LONG_TEXTS, max_size=4), max_tokens=st.integers(4, 12))
def test_long_text_has_the_truncated_tokens_of_the_whole_text(tokenizers, name, chars_per_token, texts, max_tokens):
    pair_tokenizer = PairTokenizer(tokenizers[name], TextConfig(query_prefix="q: ", max_query_tokens=max_tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hbt_ray.data.tokenizer.CHARS_PER_TOKEN", chars_per_token)
        encoded = pair_tokenizer.encode(texts, "question")
    whole = [tokenizers[name]("q: " + text)["input_ids"] for text in texts]
    cut = [ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]] for ids in whole]
    assert [ids.tolist() for ids in encoded] == cut


def test_head_ends_with_a_word_if_words_are_tokenized_separately(tokenizers):
    heads = {name: PairTokenizer(tokenizers[name], TextConfig())._head("one two  three four", 5) for name in tokenizers}
    assert heads.pop("bytes") == "one two  three four"
    assert set(heads.values()) == {"one two"}
    pair_tokenizer = PairTokenizer(tokenizers["trained"], TextConfig())
    assert pair_tokenizer._head("one two", 3) == "one"
    assert pair_tokenizer._head("one two", 4) == pair_tokenizer._head("one two", 99) == "one two"
    assert pair_tokenizer._head("one  two three", 4) == "one  two"  # two spaces may have another token than one


def test_truncated_text_has_its_special_tokens(tokenizer):
    pair_tokenizer = PairTokenizer(tokenizer, TextConfig(max_query_tokens=6))
    [ids] = pair_tokenizer.encode([" ".join(TEXTS)], "question")
    assert len(ids) == 6
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_lengths_of_questions_and_passages_are_independent(tokenizer):
    pair_tokenizer = PairTokenizer(tokenizer, TextConfig(max_query_tokens=4, max_passage_tokens=12))
    text = " ".join(TEXTS)
    lengths = [len(pair_tokenizer.encode([text], side)[0]) for side in ("question", "passage", "question", "passage")]
    assert lengths == [4, 12, 4, 12]


@pytest.mark.parametrize(
    "other",
    [
        TextConfig(query_prefix="q: "),
        TextConfig(passage_prefix="p: "),
        TextConfig(max_query_tokens=65),
        TextConfig(max_passage_tokens=129),
    ],
    ids=["query prefix", "passage prefix", "query length", "passage length"],
)
def test_fingerprint_changes_with_the_text_settings(tokenizer, other):
    assert PairTokenizer(tokenizer, TextConfig()).fingerprint() != PairTokenizer(tokenizer, other).fingerprint()


def test_fingerprint_changes_with_the_tokenizer(tokenizer):
    other = train_tokenizer(TEXTS[:3], 400)
    assert PairTokenizer(tokenizer, TextConfig()).fingerprint() != PairTokenizer(other, TextConfig()).fingerprint()


def test_fingerprint_does_not_change_with_earlier_calls():
    fresh = train_tokenizer(TEXTS, 400)
    before = PairTokenizer(fresh, TextConfig())
    found = before.fingerprint()
    fresh(TEXTS, truncation=True, max_length=5, padding="max_length")  # leaves both in the tokenizer
    before.encode(TEXTS, "passage")
    assert before.fingerprint() == PairTokenizer(fresh, TextConfig()).fingerprint() == found


def test_training_a_tokenizer_is_deterministic():
    texts = [tiny_corpus.passage(x, i) for x in tiny_corpus.LANGUAGES for i in range(40)] + TEXTS
    one, other = train_tokenizer(texts, 500), train_tokenizer(iter(texts), 500)
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert len(one) <= 500


def test_frequent_words_are_one_token(tokenizer):
    assert tokenizer.tokenize("the cat") == ["▁the", "▁cat"]
    assert tokenizer.unk_token_id in tokenizer("Ж§")["input_ids"]


def test_pair_tokenizer_pickles_small_and_encodes_the_same(tokenizer):
    pair_tokenizer = PairTokenizer(tokenizer, tiny_corpus.TEXT)
    pair_tokenizer.encode(TEXTS, "question")
    sent = pickle.dumps(pair_tokenizer)
    assert len(sent) < len(pair_tokenizer.definition) + 1000
    back = pickle.loads(sent)
    assert back.fingerprint() == pair_tokenizer.fingerprint()
    for one, other in zip(back.encode(TEXTS, "passage"), pair_tokenizer.encode(TEXTS, "passage"), strict=True):
        assert np.array_equal(one, other)


def test_ids_take_two_bytes_up_to_65536_tokens(tokenizer):
    pair_tokenizer = PairTokenizer(tokenizer, TextConfig())
    assert pair_tokenizer.num_tokens == len(tokenizer)
    pair_tokenizer.num_tokens = 65_536
    assert pair_tokenizer.token_type == pair_tokenizer.encode(["x"], "question")[0].dtype == "uint16"
    pair_tokenizer.num_tokens = 65_537
    assert pair_tokenizer.token_type == pair_tokenizer.encode(["x"], "question")[0].dtype == "int32"


def test_saved_tokenizer_is_loaded_with_its_fingerprint(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(ModelConfig(path=str(tmp_path)))
    assert PairTokenizer(loaded, TextConfig()).fingerprint() == PairTokenizer(tokenizer, TextConfig()).fingerprint()


def test_tokenizer_of_a_sentence_transformers_folder_is_loaded(tmp_path):
    tiny_corpus.make_encoder(tmp_path / "encoder")
    loaded = load_tokenizer(ModelConfig(path=str(tmp_path / "encoder")))
    assert PairTokenizer(loaded, tiny_corpus.TEXT).fingerprint() == tiny_corpus.tokenization().fingerprint()


def test_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no tokenizer .*write the folder of a saved model") as error:
        load_tokenizer(ModelConfig(path=str(tmp_path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("character", ["x", "=", "字", "\u0e31"])
def test_one_enormous_word_is_cut_and_counted(character: str, caplog: pytest.LogCaptureFixture):
    texts = [f"item {n} of a list" for n in range(120)]
    started = time.perf_counter()
    tokenizer = train_tokenizer([*texts, character * 1_000_000], 300)
    assert time.perf_counter() - started < 10
    assert "1 words were cut to 1000 characters to train the tokenizer" in caplog.text
    assert tokenizer.get_vocab() == train_tokenizer([*texts, character * 1000], 300).get_vocab()
