"""What no change of names may change: batches, masks, first weights, and the names of files and fields on disk.

Values were taken from the code as it stood. A test that fails here means that runs made before are no longer made
again: mend the code, not the value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
import yaml
from safetensors import safe_open

from hbt_ray.config import LoraConfig, MixConfig, PretrainRunConfig, RunConfig, TrainConfig, build_config, dump_config
from hbt_ray.data.components import ItemComponents, item_key, text_key
from hbt_ray.data.corpora import list_shards
from hbt_ray.data.manifest import StoreManifest
from hbt_ray.data.prepare import assign_shards, make_shard, tokenizer_texts
from hbt_ray.data.row_tables import find_duplicate_items, read_rows
from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.types import Benchmark, Query
from hbt_ray.evaluation.query_perturbation import perturbed
from hbt_ray.mining import mine
from hbt_ray.models.deterministic_dropout import DeterministicDropout, DropoutKey
from hbt_ray.models.encoder import init_encoder, load_for_training
from hbt_ray.models.lora import adapter_weights
from hbt_ray.pretraining.block_sampler import TextBlockSampler
from hbt_ray.pretraining.collate import build_blocks, build_simcse_pairs
from hbt_ray.pretraining.local_runner import pretrain_locally
from hbt_ray.pretraining.masking import MaskRules
from hbt_ray.pretraining.masking import mask_tokens as mask
from hbt_ray.pretraining.mlm_model import load_head
from hbt_ray.pretraining.task import make_pretraining_task as pretraining_job
from hbt_ray.retrieval.embedding_cache import vectors_fingerprint, write_embedding_shard
from hbt_ray.retrieval.embedding_cache import write_cache_manifest as commit_vectors
from hbt_ray.sampling import HybridStepSampler
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import build_batch
from hbt_ray.search.algorithms import list_candidates as points_of
from hbt_ray.search.config import SearchConfig, SearchSettings
from hbt_ray.study.config import StudySettings
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
from hbt_ray.training.local_runner import train_locally
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.task import ContrastiveTask
from hbt_ray.training.train_state import TrainState
from hbt_ray.utils.counter_rng import (
    Salt,
    random_bits,
    random_permutation_at,
    random_uniforms,
    stable_hash64,
    windowed_shuffle_at,
)
from hbt_ray.utils.digests import without_checksum
from hbt_ray.utils.storage import StoragePath, file_sha256
from tests.helpers import tiny_corpus

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE: dict[str, Any] = {"rel": 1e-4, "abs": 1e-6}  # of what a processor's own arithmetic may change


def digest(*values: Any) -> str:
    """16 hex digits of integers, texts and exact floats, alone, in lists or in arrays."""
    text = json.dumps(values, default=lambda array: array.tolist(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fields(value: Any, above: str = "") -> set[str]:
    """Return the names of all fields in JSON or YAML, with those above them; the entries of a list are one."""
    if isinstance(value, dict):
        own = {f"{above}.{name}".lstrip("."): below for name, below in value.items()}
        return set(own) | {name for path, below in own.items() for name in fields(below, path)}
    if isinstance(value, list):
        return {name for below in value for name in fields(below, f"{above}[]")}
    return set()


def files(folder: Path) -> list[str]:
    """All files, but of saved encoders the folder alone: what is in it is sentence-transformers' own."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted({f"{path.parts[0]}/" if "model" in path.parts[0] else path.as_posix() for path in found})


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def tensors(file: Path) -> list[str]:
    """Each tensor's name, type and shape."""
    with safe_open(file, "pt") as opened:
        pieces = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
    return sorted(f"{name} {piece.get_dtype()} {piece.get_shape()}" for name, piece in pieces.items())


def content_of(batch: PairBatch) -> list[Any]:
    own = [batch.step, batch.first_pair, batch.global_pairs, batch.kind, batch.positives, batch.translation_of]
    sides = [batch.query_ids, batch.query_lengths, batch.passage_ids, batch.passage_lengths]
    return [*own, *sides, batch.query_keys, batch.passage_keys]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two token stores and an encoder."""
    folder: Path = tmp_path_factory.mktemp("golden")
    tiny_corpus.make_store(folder / "store", negatives=2, english_only=8)
    tiny_corpus.make_text_store(folder / "texts", tiny_corpus.pretrain_config())
    tiny_corpus.make_encoder(folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def store(made: Path) -> TokenStore:
    return TokenStore.open(made / "store")


@pytest.fixture(scope="module")
def text_store(made: Path) -> TokenStore:
    return TokenStore.open(made / "texts")


# Random numbers


def test_random_streams_are_the_same():
    places = np.arange(50)
    assert stable_hash64(3, "weights", "de") == 5594049230302773735
    assert digest(random_bits(7, places), random_permutation_at(places, 50, 7)) == "74b9d879473f2671"
    assert digest(random_uniforms(7, places)) == "f7c3ebb09da06d0c"
    assert digest(windowed_shuffle_at(np.arange(0, 200_000, 997), 200_000, 7)) == "d671f987e3dc53dc"


def test_salts_are_the_same():
    assert {str(salt) for salt in Salt} == {
        *("short", "windows", "window", "turn", "split", "shard", "line", "kind", "stream", "languages", "positives"),
        *("second", "texts", "first token", "mask", "held out", "told", "other", "weights", "lora", "head", "dropout"),
        *("query", "passage", "perturbation", "fitting item"),
    }


# Batches

PLANS: dict[str, dict[str, Any]] = {
    "x-x-mono": {"strategy": "x-x-mono"},
    "x-y": {"strategy": "x-y"},
    "x-y, one pair": {"strategy": "x-y", "cross_pairs": "one"},
    "x-x": {"strategy": "x-x"},
    "one-to-k": {"strategy": "one-to-k"},
    "hybrid": {"strategy": "hybrid", "alpha": 0.5},
    "hybrid, one pair": {"cross_pairs": "one"},
    "hybrid, alpha falls": {
        "alpha_schedule": {"points": [[0, 1.0], [4, 0.0]], "between": "cosine"},
        "cross_pairs": "one",
    },
    "hybrid, languages by size": {"language_sampling": 0.5, "source_sampling": 0.5, "cross_pairs": "one"},
    "hybrid, hard negatives": {"hard_negatives": 2, "cross_pairs": "one"},
    "hybrid, translated queries": {"second_questions": True, "cross_pairs": "one"},
    "x-x, translated queries": {"strategy": "x-x", "second_questions": True},
    "one-to-k, all at once": {
        "strategy": "one-to-k",
        "positive_languages": 3,
        "hard_negatives": 1,
        "second_questions": True,
        "language_sampling": 0.5,
    },
}
# Of the plan, and of the token ids.
BATCHES: dict[str, tuple[str, str]] = {
    "x-x-mono": ("703ffe3995932b3d", "74375bdfcae63f88"),
    "x-y": ("ecd58a0b86c1164c", "a177e3be9574b56d"),
    "x-y, one pair": ("b8187e9f678f74e0", "e42375971dbc2016"),
    "x-x": ("f67311dd35a935db", "a57216ebbf805888"),
    "one-to-k": ("549106d4c73735b4", "9026b85e4f39dd59"),
    "hybrid": ("c8def947d30a167b", "0394ba3a22ea2e74"),
    "hybrid, one pair": ("6f0d95301ab6d8f0", "41b317093cc5829c"),
    "hybrid, alpha falls": ("3e167c9b77feb9a6", "bbfaab0e6a5a0585"),
    "hybrid, languages by size": ("789ea429e1fcb0ee", "92e4d57a4cb806b5"),
    "hybrid, hard negatives": ("6f0d95301ab6d8f0", "7654def044601735"),
    "hybrid, translated queries": ("85d164068b89a1c3", "a6357fc7b3ea236e"),
    "x-x, translated queries": ("1bd1f795b0c04c0f", "8ee66d4c2d018710"),
    "one-to-k, all at once": ("5b6e951c98d1281f", "77ea79c2be648239"),
}


@pytest.mark.parametrize("name", PLANS)
def test_first_batches_are_the_same(store: TokenStore, name: str):
    plan = tiny_corpus.make_sampler(store, **PLANS[name])
    specs = [plan.batch(step) for step in (0, 1, 2, 40)]  # the last is of a later epoch
    planned = [
        [spec.kind, spec.source, spec.epoch, spec.rows, store.item_ids(spec.source, spec.rows)]
        + [spec.query_languages, spec.second_languages, spec.passage_languages]
        for spec in specs
    ]
    built = [content_of(build_batch(spec, store)) for spec in specs]
    assert (digest(planned), digest(built)) == BATCHES[name]


def test_the_order_of_the_held_out_split_is_the_same(text_store: TokenStore):
    plan = HybridStepSampler(
        text_store.manifest, MixConfig(cross_pairs="one"), seed=3, global_batch_pairs=4, split="validation"
    )
    assert digest([plan.batch(step).rows for step in range(3)]) == "c242ec4744ad29e2"


# Pretraining

# Of the plan, and of the token ids and masks.
TEXT_BATCHES: dict[str, tuple[str, str]] = {
    "mlm": ("384a8480a913f00a", "1093e33bb5ee9896"),
    "tlm": ("31cf5854ffeb093e", "998ca8827f3ad549"),
    "contrastive": ("1e1e433619b01953", "55e58d98758ce18f"),
}


@pytest.mark.parametrize("objective", ["mlm", "tlm", "contrastive"])
def test_first_text_batches_are_the_same(text_store: TokenStore, objective: str):
    config = tiny_corpus.pretrain_config(objective=objective)
    plan = TextBlockSampler(text_store.manifest, config.pretrain, seed=3)
    specs = [plan.batch(step) for step in (0, 1, 2, 40)]
    planned = [[[plan.streams[n].name for n in spec.streams], spec.places] for spec in specs]
    if objective == "contrastive":
        built = [content_of(build_simcse_pairs(spec, plan, text_store)) for spec in specs]
    else:
        rules = MaskRules.of(tiny_corpus.tokenizer(), 0.15, "tiny")
        blocks = [build_blocks(spec, plan, text_store, rules, seed=3) for spec in specs]
        built = [[own.ids, own.targets, own.lengths, own.texts_per_block] for own in blocks]
    assert (digest(planned), digest(built)) == TEXT_BATCHES[objective]


def test_the_first_mask_is_the_same():
    rules = MaskRules(mask_id=4, special_ids=(0, 1, 2, 3, 4), num_tokens=300, share=0.15)
    assert digest(*mask(np.arange(300), rules, key=1)) == "33fc461b83495e1b"


# Weights and dropout


def test_the_first_dropout_mask_is_the_same():
    key = DropoutKey()
    key.set(torch.device("cpu"), 3, "dropout", 0, 0, 0)
    kept, scale = DeterministicDropout(0.1, key, place=2).mask((40, 16), torch.float32)
    assert (digest(kept), scale) == ("d76ed389c05da07c", 1.1111186463666882)
    assert digest(torch.randint(1000, (50,))) == "61a9032c8f33a8d7"  # the generator of layers that draw for themselves


def summary_of(weight: torch.Tensor) -> list[float]:
    """First and last element, and the sum of all, each weighted by its place so that their order counts."""
    flat = weight.detach().double().flatten()
    return [float(flat[0]), float(flat[-1]), float((flat * torch.linspace(0, 1, len(flat)).double()).sum())]


def test_first_weights_of_a_small_encoder_are_the_same():
    encoder = init_encoder(tiny_corpus.MODEL, tiny_corpus.TEXT, tiny_corpus.tokenizer(), seed=1)
    weights = dict(encoder[0].model.named_parameters())
    assert summary_of(weights["embeddings.word_embeddings.weight"]) == pytest.approx(
        [0.0, -0.01454506, 1.965335], **CLOSE
    )
    assert summary_of(weights["encoder.layer.0.output.dense.weight"]) == pytest.approx(
        [0.006354319, -0.02269413, 0.3858189], **CLOSE
    )


def test_first_adapters_are_the_same(made: Path):
    pytest.importorskip("peft")
    model = tiny_corpus.MODEL.model_copy(update={"lora": LoraConfig(rank=2)})
    adapters = adapter_weights(load_for_training(model, tiny_corpus.TEXT, made / "encoder", seed=5))
    assert sorted(adapters) == [
        "0.model.encoder.layer.0.attention.self.query.lora_A.default.weight",
        "0.model.encoder.layer.0.attention.self.query.lora_B.default.weight",
        "0.model.encoder.layer.0.attention.self.value.lora_A.default.weight",
        "0.model.encoder.layer.0.attention.self.value.lora_B.default.weight",
    ]
    assert {name: digest(weight) for name, weight in adapters.items() if ".lora_A." in name} == {
        "0.model.encoder.layer.0.attention.self.query.lora_A.default.weight": "c53d0ca4d51debeb",
        "0.model.encoder.layer.0.attention.self.value.lora_A.default.weight": "c592fb808b46550a",
    }


def test_the_first_head_is_the_same(made: Path):
    encoder = tiny_corpus.make_encoder(made / "encoder")
    counts = np.arange(300)
    head = load_head(made / "encoder", encoder, seed=3, trust_remote_code=False, token_counts=counts)
    weights = dict(head.named_parameters())
    assert summary_of(weights["cls.predictions.transform.dense.weight"]) == pytest.approx(
        [0.02639955, -0.016298, 0.03379485], **CLOSE
    )
    assert summary_of(weights["cls.predictions.bias"]) == pytest.approx([-11.00252, -4.810154, -649.9946], **CLOSE)


def test_first_losses_are_the_same(made: Path, store: TokenStore, text_store: TokenStore, tmp_path: Path):
    """They follow from weights, batches, masks and dropout together."""
    encoder = tiny_corpus.make_encoder(made / "encoder", dropout=0.3)
    trainer = ContrastiveTrainer(encoder, TrainConfig(global_batch_pairs=8, chunk_pairs=4, precision="fp32"), seed=3)
    batch = build_batch(tiny_corpus.make_sampler(store, cross_pairs="one").batch(0), store)
    assert trainer.step(0, [batch]).loss == pytest.approx(2.168295, **CLOSE)
    config = tiny_corpus.pretrain_config(model=tiny_corpus.MODEL.model_copy(update={"dropout": 0.3}))
    job = pretraining_job(config, text_store.folder, run_dir_of(config, tmp_path))
    [blocks] = job.batches(text_store, range(1))
    assert job.build_trainer("cpu").step(0, [blocks]).loss == pytest.approx(2.936727, **CLOSE)


def test_an_unpacked_encoders_dropout_key_is_the_same(made: Path, store: TokenStore):
    encoder = tiny_corpus.make_encoder(made / "encoder", dropout=0.0, attention="eager")
    trainer = ContrastiveTrainer(encoder, TrainConfig(global_batch_pairs=8, chunk_pairs=4, precision="fp32"), seed=3)
    trainer.step(0, [build_batch(tiny_corpus.make_sampler(store).batch(0), store)])
    assert torch.initial_seed() == 661162336803782255  # that of the last chunk's passages


# Preparing, mining, measuring, searching


def test_split_shard_and_order_of_rows_are_the_same(tmp_path: Path):
    rows, tokenization = read_corpus(tmp_path), tiny_corpus.tokenization()
    names = [f"item-{item}" for item in range(300)]
    keys = np.array([item_key("numbers", name) for name in names], np.uint64)
    assert np.array(names)[ItemComponents().held_out(keys, 0.02, 300)].tolist() == [
        "item-6",
        "item-33",
        "item-64",
        "item-109",
        "item-119",
        "item-205",
        "item-269",
        "item-281",
    ]
    placed = assign_shards(rows, np.array([item_key("numbers", "item-3")], np.uint64), {"numbers": 3}, 0.2)
    assert digest(placed.select(["item_id", "language", "bucket"]).to_pylist()) == "f473828ed30079cd"
    assert digest(rows.select(["item_id", "language", "pair_key"]).to_pylist()) == "b8eefb7656a1c04f"
    assert tokenizer_texts(rows, ("query: ", "passage: "))[:4] == [
        "query: en what is b11",
        "passage: en it is the number 11 so",
        "query: en what is i8",
        "passage: en it is the number 8 so so so",
    ]
    assert find_duplicate_items(pa.concat_tables([rows, rows])).to_pylist() == []
    first = placed.filter(pc.equal(placed["bucket"], placed["bucket"][0]))
    shard, *_ = make_shard(first, tmp_path, tokenization)
    assert (shard.file, digest(read_table(tmp_path / shard.file).to_pylist())) == (
        "numbers/train-00001.arrow",
        "b6f7664b7217e008",
    )
    assert rows.schema.names == [
        "source",
        "item_id",
        "language",
        "question",
        "passage",
        "negatives",
        "place",
        "answer",
        "answer_start",
        "pair_key",
        "question_key",
        "passage_key",
        "negative_keys",
        "occurs_in_evaluation",
        "rejected",
        "detail",
    ]


def read_corpus(folder: Path) -> pa.Table:
    """Return the rows of a corpus "numbers" in two languages."""
    parts = [part for corpus in corpus_config(folder).corpora for part in list_shards(corpus)]
    return pa.concat_tables(read_rows(parts, None))


def corpus_config(folder: Path) -> RunConfig:
    (folder / "numbers").mkdir(parents=True)
    for language in ("de", "en"):
        lines = [
            json.dumps(
                {
                    "id": f"item-{n}",
                    "question": tiny_corpus.question(language, n),
                    "context": tiny_corpus.passage(language, n),
                }
            )
            for n in range(12)
        ]
        (folder / "numbers" / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    corpora = [{"format": "jsonl", "path": str(folder / "numbers")}]
    return build_config({"corpora": corpora, "mine": {"negatives": 2}, "prepare": {"validation_share": 0.2}})


def read_table(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.OSFile(str(file))).read_all()


def test_keys_of_equal_texts_are_the_same():
    found = [text_key(side, normalize_for_matching("The key, here!")) for side in ("question", "passage")]
    assert found == [2415798572899469573, 7014699941296935995]


def benchmark() -> Benchmark:
    queries = [
        Query("q1", "fr", "où est la forêt déjà célèbre", "one"),
        Query("q2", "de", "wo ist der berühmte Wald", "one"),
        Query("q3", "en", "where is the famous forest", "one"),
    ]
    return Benchmark("forests", queries, [], {"q1": {"p1": 1}})


PERTURBED: dict[Any, list[str]] = {
    "typos": ["où est la forêt dééjà célèbre", "wo ist deer berühmte Wald", "wheere is the famous forest"],
    "case": ["OÙ EST LA FORÊT DÉJÀ CÉLÈBRE", "WO IST DER BERÜHMTE WALD", "WHERE IS THE FAMOUS FOREST"],
    "accents": ["ou est la foret deja celebre", "wo ist der beruhmte Wald", "where is the famous forest"],
    "translation": ["where is the famous forest", "where is the famous forest", "wo ist der berühmte Wald"],
}


@pytest.mark.parametrize("kind", ["typos", "case", "accents", "translation"])
def test_perturbed_queries_are_the_same(kind: Any):
    found = perturbed(benchmark(), kind)
    assert found.name == f"forests-{kind}"
    assert [query.text for query in found.queries] == PERTURBED[kind]


def test_fingerprints_are_the_same():
    """They name stores and vectors, so that those made before are found again."""
    assert {
        "benchmark": benchmark().fingerprint(),
        "tokenization": tiny_corpus.tokenization().fingerprint(),
        "vectors": vectors_fingerprint("a/model", benchmark().fingerprint(), "query: ", None),
    } == {"benchmark": "42b879a6bfcff9b3", "tokenization": "3d4cd31dc9bf1ff8", "vectors": "798c35bd6f594a2c"}


def test_random_configurations_of_a_search_are_the_same():
    space = {"mix.alpha": {"uniform": [0.2, 0.8]}, "train.steps": {"integers": [5, 70]}}
    space |= {"train.learning_rate": {"loguniform": [1e-5, 1e-3]}, "mix.strategy": ["hybrid", "x-y"]}  # type: ignore[dict-item]
    search = SearchConfig.model_validate({"space": space, "algorithm": "random", "configurations": 3, "seed": 3})
    assert [point.name for point in points_of(search)] == [
        "alpha=0.5644,steps=54,learning_rate=0.0006776,strategy=x-y",
        "alpha=0.6931,steps=44,learning_rate=0.0002233,strategy=hybrid",
        "alpha=0.5022,steps=15,learning_rate=1.34e-05,strategy=hybrid",
    ]


# What stands on disk


def test_a_token_store_has_the_same_files_and_fields(made: Path):
    assert files(made / "store") == ["manifest.json", "numbers/train-00000.arrow", "numbers/train-00001.arrow"]
    manifest = without_checksum((made / "store" / "manifest.json").read_text())
    assert sorted(fields(manifest)) == [
        "counts",
        "format",
        "sources",
        "sources.numbers",
        "sources.numbers.groups",
        "sources.numbers.groups[].languages",
        "sources.numbers.groups[].negatives",
        "sources.numbers.shards",
        "sources.numbers.shards.train",
        "sources.numbers.shards.train[].file",
        "sources.numbers.shards.train[].items",
        "sources.numbers.shards.train[].runs",
        "sources.numbers.shards.train[].sha256",
        "sources.numbers.shards.train[].tokens",
        "sources.numbers.shards.train[].tokens.passage/de",
        "sources.numbers.shards.train[].tokens.passage/en",
        "sources.numbers.shards.train[].tokens.passage/fr",
        "sources.numbers.shards.train[].tokens.question/de",
        "sources.numbers.shards.train[].tokens.question/en",
        "sources.numbers.shards.train[].tokens.question/fr",
        "text_fingerprint",
        "token_type",
    ]
    for source in manifest["sources"].values():
        for shard in source["shards"]["train"]:
            shard["sha256"] = ""  # pyarrow's version is in the file
    assert digest(manifest) == "eca5ad7f38a3baef"
    assert StoreManifest.from_json(json.dumps(manifest)).fingerprint() == "f107379dbe0f28e5"
    table = read_table(made / "store" / "numbers" / "train-00000.arrow")
    assert [f"{field.name} {field.type}" for field in table.schema] == [
        "item_id string",
        "question/de list<item: uint16>",
        "passage/de list<item: uint16>",
        "negatives/de list<item: list<item: uint16>>",
        "question/en list<item: uint16>",
        "passage/en list<item: uint16>",
        "negatives/en list<item: list<item: uint16>>",
        "question/fr list<item: uint16>",
        "passage/fr list<item: uint16>",
        "negatives/fr list<item: list<item: uint16>>",
    ]
    assert digest(table.to_pylist()) == "55e832a0f5a1becd"


def test_a_runs_folder_has_the_same_files_and_fields(made: Path, store: TokenStore, tmp_path: Path):
    config = build_config(
        {
            "text": tiny_corpus.TEXT.model_dump(),
            "model": tiny_corpus.MODEL.model_dump(mode="json"),
            "train": {"steps": 2, "global_batch_pairs": 8, "precision": "fp32", "checkpoint_every": 2},
        }
    )
    folder = run_dir_of(config, tmp_path / "run")
    folder.write_config(config)
    job = ContrastiveTask(config, str(made / "encoder"), lambda encoder, config: {"multi/map": 0.5})
    train_locally(job, store.folder, folder, every=2)
    assert files(tmp_path / "run") == [
        "checkpoints/step-000000002/complete.json",
        "checkpoints/step-000000002/optimizer.safetensors",
        "checkpoints/step-000000002/state.json",
        "checkpoints/step-000000002/weights.safetensors",
        "measured/2.json",
        "run.yaml",
    ]
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000000002"
    assert sorted(fields(read_json(checkpoint / "state.json"))) == [
        "metrics",
        "metrics.loss",
        "progress",
        "progress.best_validation_loss",
        "progress.last_validation_loss",
        "progress.step",
        "progress.steps_skipped",
        "progress.validations_without_gain",
    ]
    assert sorted(fields(read_json(checkpoint / "complete.json"))) == [
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    ]
    assert sorted(read_json(tmp_path / "run" / "measured" / "2.json")) == ["multi/map", "sha256", "train/loss"]
    assert digest(tensors(checkpoint / "weights.safetensors")) == "8011ecee2c131f3b"
    assert digest(tensors(checkpoint / "optimizer.safetensors")) == "a3aa6b5d72461c5d"
    assert sorted(
        place.name
        for place in (folder.tracking_id.local, folder.scratch.local, folder.initial_model, folder.model)
        + (folder.evaluations, folder.stores)
    ) == ["evaluation", "initial_model", "mlflow_run_id", "model", "ray_train", "stores"]


def test_a_checkpoint_of_adapters_has_the_same_names(made: Path, tmp_path: Path):
    pytest.importorskip("peft")
    model = tiny_corpus.MODEL.model_copy(update={"lora": LoraConfig(rank=2)})
    encoder = load_for_training(model, tiny_corpus.TEXT, made / "encoder", seed=5)
    trainer = ContrastiveTrainer(encoder, TrainConfig(precision="fp32"), seed=1)
    place = CheckpointManager(StoragePath.of(tmp_path)).save(trainer, TrainState(1), {})
    assert tensors(Path(str(place)) / "weights.safetensors") == [
        "0.model.encoder.layer.0.attention.self.query.lora_A.default.weight F32 [2, 16]",
        "0.model.encoder.layer.0.attention.self.query.lora_B.default.weight F32 [16, 2]",
        "0.model.encoder.layer.0.attention.self.value.lora_A.default.weight F32 [2, 16]",
        "0.model.encoder.layer.0.attention.self.value.lora_B.default.weight F32 [16, 2]",
    ]


def test_a_pretraining_has_the_same_files_and_fields(text_store: TokenStore, tmp_path: Path):
    config = tiny_corpus.pretrain_config(steps=2, checkpoint_every=2)
    folder = run_dir_of(config, tmp_path / "run")
    pretrain_locally(config, text_store.folder, folder)
    assert files(tmp_path / "run") == [
        "checkpoints/step-000000002/complete.json",
        "checkpoints/step-000000002/optimizer.safetensors",
        "checkpoints/step-000000002/state.json",
        "checkpoints/step-000000002/weights.safetensors",
        "initial_model/",
        "measured/0.json",
        "measured/2.json",
        "model/",
        "perplexity.json",
        "run.yaml",
    ]
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000000002"
    assert sorted(fields(read_json(checkpoint / "state.json"))) == [
        "metrics",
        "metrics.loss",
        "progress",
        "progress.best_validation_loss",
        "progress.last_validation_loss",
        "progress.step",
        "progress.steps_skipped",
        "progress.validations_without_gain",
    ]
    before = {"perplexity/de": 175.6718, "perplexity/en": 257.9284, "perplexity/fr": 275.4391}
    assert load_checkpoint_metrics(folder.checkpoint_metrics)[0] == (0, pytest.approx(before, **CLOSE))
    assert sorted(fields(read_json(tmp_path / "run" / "perplexity.json"))) == [
        "de",
        "de.after",
        "de.before",
        "en",
        "en.after",
        "en.before",
        "fr",
        "fr.after",
        "fr.before",
    ]
    assert digest(tensors(checkpoint / "weights.safetensors")) == "c223c688efa4c012"
    assert digest(tensors(checkpoint / "optimizer.safetensors")) == "c24540408caebc10"


def test_vectors_have_the_same_files_and_fields(tmp_path: Path):
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    part = write_embedding_shard(tmp_path, 0, vectors)
    commit_vectors(tmp_path, [part], 3)
    assert files(tmp_path) == ["part-00000.arrow", "vectors.json"]
    assert without_checksum((tmp_path / "vectors.json").read_text()) == {
        "width": 3,
        "parts": [{"file": "part-00000.arrow", "size": 4, "sha256": file_sha256(tmp_path / "part-00000.arrow")}],
    }
    table = read_table(tmp_path / part.file)
    assert [f"{field.name} {field.type}" for field in table.schema] == ["vector fixed_size_list<item: float>[3]"]


def test_mined_negatives_have_the_same_files_and_fields(made: Path, tmp_path: Path):
    config = corpus_config(tmp_path)
    mine(config, str(made / "encoder"), tmp_path / "mined")
    assert files(tmp_path / "mined") == ["mined.json", "numbers/de.jsonl", "numbers/en.jsonl", "rejects.jsonl"]
    summary = without_checksum((tmp_path / "mined" / "mined.json").read_text())
    assert sorted(name.replace(str(tmp_path), "") for name in summary.pop("mined_with")) == [
        "corpora.numbers.columns.answer_start",
        "corpora.numbers.columns.answer_text",
        "corpora.numbers.columns.id",
        "corpora.numbers.columns.language",
        "corpora.numbers.columns.negatives",
        "corpora.numbers.columns.passage",
        "corpora.numbers.columns.question",
        "corpora.numbers.format",
        "corpora.numbers.languages",
        "corpora.numbers.name",
        "corpora.numbers.path",
        "corpora.numbers.split",
        "corpora.numbers.subset",
        "file /numbers/de.jsonl",
        "file /numbers/en.jsonl",
        "languages",
        "mine.depth",
        "mine.margin",
        "mine.negatives",
        "mine.skip_first",
        "model",
        "model.files",
        "model.max_tokens",
        "model.passage_prefix",
        "model.pooling",
        "model.precision",
        "model.query_prefix",
        "model.revision",
        "prepare.near_duplicate_threshold",
        "prepare.validation_share",
        "rules",
    ]
    assert sorted(summary.pop("files")) == ["numbers/de.jsonl", "numbers/en.jsonl", "rejects.jsonl"]
    assert sorted(fields(summary)) == [
        "languages",
        "languages.de",
        "languages.de.items",
        "languages.de.items_held_out",
        "languages.de.items_with_fewer",
        "languages.de.mean_gold_score",
        "languages.de.mean_negative_score",
        "languages.de.negatives",
        "languages.de.passages",
        "languages.de.seconds",
        "languages.de.warnings",
        "languages.en",
        "languages.en.items",
        "languages.en.items_held_out",
        "languages.en.items_with_fewer",
        "languages.en.mean_gold_score",
        "languages.en.mean_negative_score",
        "languages.en.negatives",
        "languages.en.passages",
        "languages.en.seconds",
        "languages.en.warnings",
        "sources",
        "sources.numbers",
        "sources.numbers.items_dropped_as_repeated",
        "sources.numbers.items_dropped_for_evaluation",
        "sources.numbers.rows_read",
        "sources.numbers.rows_rejected",
    ]
    line = (tmp_path / "mined" / "numbers" / "de.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert sorted(json.loads(line)) == ["context", "id", "language", "negatives", "question"]


# Settings


def settings_of(kind: type[Any]) -> list[str]:
    """Every setting of a configuration, with what it may be where that is one of several words."""
    schema = kind.model_json_schema()

    def found(node: Any, above: str) -> Iterator[str]:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        if "enum" in node or "const" in node:
            yield f"{above}={'|'.join(map(str, node.get('enum', [node.get('const')])))}"
        for name, below in node.get("properties", {}).items():
            path = f"{above}.{name}".lstrip(".")
            yield path
            yield from found(below, path)
        for below in [*node.get("anyOf", ()), node.get("items"), node.get("additionalProperties")]:
            if isinstance(below, dict):
                yield from found(below, above)

    return sorted(set(found(schema, "")))


SETTINGS: dict[str, str] = {
    "run": """
        corpora corpora.columns corpora.columns.answer_start corpora.columns.answer_text corpora.columns.id
        corpora.columns.language corpora.columns.negatives corpora.columns.passage corpora.columns.question
        corpora.format corpora.format=embedded|squad|jsonl|json|csv|tsv|parquet|huggingface|msmarco|bitext|tmx|text
        corpora.ids corpora.ids=column|rows|unique corpora.language corpora.languages corpora.licence
        corpora.max_negatives corpora.name corpora.path corpora.split corpora.subset evaluate evaluate.benchmarks
        evaluate.dimensions evaluate.figures evaluate.index evaluate.index=flat|hnsw|ivfpq evaluate.index_depth
        evaluate.perturbations evaluate.perturbations=typos|case|accents|translation evaluate.precision
        evaluate.precision=auto|bf16|fp32 evaluate.run_depth evaluate.shards evaluate.split evaluate.window_chars
        evaluate.with_paragraph languages loss loss.consistency loss.distillation loss.distillation.teacher
        loss.distillation.temperature loss.distillation.weight loss.matryoshka loss.symmetric mine mine.depth
        mine.margin mine.negatives mine.skip_first mix mix.alpha mix.alpha_schedule mix.alpha_schedule.between
        mix.alpha_schedule.between=hold|linear|cosine mix.alpha_schedule.points mix.cross_pairs
        mix.cross_pairs=one|mixed mix.hard_negatives mix.language_sampling mix.language_weights mix.phases
        mix.phases.alpha mix.phases.first_batch mix.phases.language_weights mix.phases.source_weights
        mix.positive_languages mix.source_sampling mix.source_weights
        mix.strategy mix.strategy=x-x-mono|x-y|x-x|hybrid|one-to-k model model.attention
        model.attention=auto|packed|sdpa|eager model.dropout model.lora model.lora.alpha model.lora.dropout
        model.lora.rank model.lora.targets model.path model.pooling
        model.pooling=mean|cls|lasttoken|weightedmean model.small model.small.heads
        model.small.layers model.small.vocabulary model.small.width model.trust_remote_code name prepare
        prepare.evaluation_sets prepare.items_per_shard prepare.max_reject_share prepare.near_duplicate_threshold
        prepare.validation_share seed storage text text.max_passage_tokens text.max_query_tokens text.passage_prefix
        text.query_prefix tracking tracking.experiment tracking.log_model tracking.uri train train.best_by
        train.best_by=validation_loss|loss train.checkpoint_every train.checkpoint_minutes train.checkpoints_kept
        train.chunk_pairs train.chunk_tokens train.collective_timeout_s train.early_stopping
        train.early_stopping.min_change train.early_stopping.patience train.embedding_exchange
        train.embedding_exchange=fp32|bf16 train.embedding_gradient train.embedding_gradient=auto|all|batch
        train.evaluate_every train.gather_negatives
        train.global_batch_pairs train.gpu train.gradient_accumulation train.gradient_caching
        train.gradient_checkpointing train.kept_activations_mib train.learning_rate train.max_failures
        train.max_gradient_norm train.non_finite_allowed train.precision train.precision=auto|bf16|fp32
        train.reproducible train.schedule train.schedule=linear|cosine|constant train.step_timeout_s train.steps
        train.temperature train.threads_per_worker train.validation_batches train.validation_every train.vocabulary
        train.vocabulary=auto|all|occurring train.warmup_share train.weight_decay
        train.workers
    """,
    "pretraining": """
        corpora corpora.columns corpora.columns.answer_start corpora.columns.answer_text corpora.columns.id
        corpora.columns.language corpora.columns.negatives corpora.columns.passage corpora.columns.question
        corpora.format corpora.format=embedded|squad|jsonl|json|csv|tsv|parquet|huggingface|msmarco|bitext|tmx|text
        corpora.ids corpora.ids=column|rows|unique corpora.language corpora.languages corpora.licence
        corpora.max_negatives corpora.name corpora.path corpora.split corpora.subset languages model model.attention
        model.attention=auto|packed|sdpa|eager model.dropout model.lora model.lora.alpha model.lora.dropout
        model.lora.rank model.lora.targets model.path model.pooling
        model.pooling=mean|cls|lasttoken|weightedmean model.small model.small.heads
        model.small.layers model.small.vocabulary model.small.width model.trust_remote_code name prepare
        prepare.evaluation_sets prepare.items_per_shard prepare.max_reject_share prepare.near_duplicate_threshold
        prepare.validation_share pretrain pretrain.best_by pretrain.best_by=validation_loss|loss pretrain.block_tokens
        pretrain.checkpoint_every pretrain.checkpoint_minutes pretrain.checkpoints_kept pretrain.chunk_blocks
        pretrain.collective_timeout_s pretrain.early_stopping pretrain.early_stopping.min_change
        pretrain.early_stopping.patience pretrain.evaluate_every pretrain.global_batch_blocks pretrain.gpu
        pretrain.gradient_accumulation pretrain.held_out_blocks pretrain.language_sampling pretrain.learning_rate
        pretrain.mask_share pretrain.max_failures pretrain.max_gradient_norm pretrain.non_finite_allowed
        pretrain.objective pretrain.objective=mlm|tlm|contrastive pretrain.precision pretrain.precision=auto|bf16|fp32
        pretrain.schedule pretrain.schedule=linear|cosine|constant pretrain.step_timeout_s pretrain.steps
        pretrain.temperature pretrain.threads_per_worker pretrain.validation_batches pretrain.validation_every
        pretrain.warmup_share pretrain.weight_decay pretrain.workers seed storage text text.max_passage_tokens
        text.max_query_tokens text.passage_prefix text.query_prefix tracking tracking.experiment tracking.log_model
        tracking.uri
    """,
    "search": """
        algorithm algorithm=grid|random|tpe|branch branch_every concurrent configurations dev dev.benchmarks dev.items
        grace_steps keep_share max_failures measure_every objectives register_as seed seeds space space.concentration
        space.integers space.loguniform space.simplex space.uniform space.values stopping stopping=none|asha
    """,
    "study": """
        chapters chapters=levels|languages|robustness|scale|alignment|gap|alpha claims claims.kind
        claims.kind=superior|non-inferior|equivalent claims.margin claims.method claims.metric claims.pilot_sd
        claims.versus concurrent debias_items licences limits made made.corpus made.corpus.columns
        made.corpus.columns.answer_start made.corpus.columns.answer_text made.corpus.columns.id
        made.corpus.columns.language made.corpus.columns.negatives made.corpus.columns.passage
        made.corpus.columns.question made.corpus.format
        made.corpus.format=embedded|squad|jsonl|json|csv|tsv|parquet|huggingface|msmarco|bitext|tmx|text
        made.corpus.ids made.corpus.ids=column|rows|unique made.corpus.language made.corpus.languages
        made.corpus.licence made.corpus.max_negatives made.corpus.name made.corpus.path made.corpus.split
        made.corpus.subset made.items made.questions measures methods methods.averaged_with methods.debiased
        methods.debiased=mean|projection|leace methods.encoder_of methods.mined_with methods.pretrained
        methods.settings methods.taught_by methods.tokens_of methods.trained name optional_benchmarks pretraining
        pretraining.after pretraining.settings published published.encoder published.source published.values question
        reference seeds title
    """,
}


KINDS: dict[str, type[Any]] = {
    "run": RunConfig,
    "pretraining": PretrainRunConfig,
    "search": SearchSettings,
    "study": StudySettings,
}


@pytest.mark.parametrize("name", KINDS)
def test_settings_have_the_same_names_and_words(name: str):
    assert settings_of(KINDS[name]) == SETTINGS[name].split()


def test_settings_have_the_same_values_where_nothing_is_written():
    assert digest(yaml.safe_load(dump_config(RunConfig()))) == "daba2c9164b55386"
    assert digest(yaml.safe_load(dump_config(tiny_corpus.pretrain_config()))) == "090eac65f0a2a194"
