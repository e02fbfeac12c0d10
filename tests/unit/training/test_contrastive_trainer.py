"""The trainer of question-passage pairs: steps, gradients, chunks, resuming."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hbt_ray.config import LossConfig, ModelConfig, TrainConfig
from hbt_ray.errors import ConfigError
from hbt_ray.losses.combined import CombinedLoss
from hbt_ray.models.dual_encoder import DualEncoder
from hbt_ray.models.encoder import load_for_training
from hbt_ray.models.packed_attention import is_packed
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.training.base_trainer import StepSignals
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
from hbt_ray.training.train_state import TrainState
from hbt_ray.utils.arrow import dataclass_from_arrow, dataclass_to_arrow
from hbt_ray.utils.storage import StoragePath
from tests.helpers import open_bases, tiny_corpus
from tests.helpers.contrastive_training import MIXES, PAIRS, UNCLIPPED, batch, make_stores_and_encoder, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_stores_and_encoder(tmp_path_factory.mktemp("training"))


def train(trainer: ContrastiveTrainer, folder: Path, first: int, last: int) -> list[float]:
    return [trainer.step(step, [batch(folder, step)]).loss for step in range(first, last)]


def gradient(trainer: ContrastiveTrainer, of: PairBatch) -> torch.Tensor:
    trainer.model.train()
    return gradient_of(trainer, trainer.loss(of))


def gradient_of(trainer: ContrastiveTrainer, loss: torch.Tensor) -> torch.Tensor:
    loss.backward()
    found = torch.cat([p.grad.flatten() for p in trainer.dual.parameters() if p.grad is not None])
    trainer.optimizer.zero_grad(set_to_none=True)
    return found


# The optimizer step


def test_step_reports_the_learning_rate_that_it_used(folder):
    trainer = make_trainer(folder, steps=10, warmup_share=0.2, learning_rate=0.004)
    assert trainer.step(0, [batch(folder, 0)]).learning_rate == 0.002
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.002}


# Families of encoders


def trainer_of(family: Path, attention: str, dropout: float = 0.0) -> ContrastiveTrainer:
    model = ModelConfig(attention=attention, dropout=dropout)  # type: ignore[arg-type]
    encoder = load_for_training(model, tiny_corpus.TEXT, family)
    train = TrainConfig(steps=10, global_batch_pairs=PAIRS, chunk_pairs=4, precision="fp32", learning_rate=1e-3)
    return ContrastiveTrainer(encoder, train, seed=5)


@pytest.mark.parametrize("family", ["gemma3_text", "modernbert", "qwen3"])
def test_open_families_are_trained_packed_as_padded(folder, family, tmp_path):
    windows = {"local_attention": 8, "sliding_window": 5, "layer_types": open_bases.SLIDING}
    base = open_bases.write_base(tmp_path, family, **windows if family != "qwen3" else open_bases.GROUPED)
    packed, padded = trainer_of(base, "auto"), trainer_of(base, "eager")
    assert is_packed(packed.encoder)
    losses = [train(trainer, folder, 0, 5) for trainer in (packed, padded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_dropout_of_attention_weights_is_a_function_of_the_step(folder, tmp_path):
    base = open_bases.write_base(tmp_path, "qwen3", **open_bases.GROUPED)  # has no other dropout
    losses = [train(trainer_of(base, "auto", p), folder, 3, 5) for p in (0.3, 0.3, 0.0)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


# Resuming


def test_trainer_resumed_from_a_checkpoint_continues_bit_for_bit(folder, tmp_path):
    whole = make_trainer(folder)
    losses = train(whole, folder, 0, 10)

    first = make_trainer(folder)
    assert train(first, folder, 0, 6) == losses[:6]
    progress = TrainState(step=6, best_validation_loss=0.1 + 0.2, validations_without_gain=1)
    checkpoints = CheckpointManager(StoragePath.of(tmp_path))
    checkpoints.save(first, progress, {})

    torch.manual_seed(999)  # what was drawn in between does not matter
    resumed = make_trainer(folder)
    assert checkpoints.load(6, resumed) == progress
    assert train(resumed, folder, 6, 10) == losses[6:]
    for name, weight in whole.encoder.state_dict().items():
        assert torch.equal(weight, resumed.encoder.state_dict()[name]), name
    moments, moments_resumed = whole.optimizer_state(), resumed.optimizer_state()
    assert moments.keys() == moments_resumed.keys()
    assert {key.partition("/")[0] for key in moments} == {"exp_avg", "exp_avg_sq", "step"}
    for name, moment in moments.items():
        assert torch.equal(moment, moments_resumed[name]), name


def test_dropout_changes_the_loss_that_resuming_reproduces(folder):
    assert train(make_trainer(folder, dropout=0.1), folder, 0, 1) != train(make_trainer(folder, 0.0), folder, 0, 1)


def test_resuming_without_moments_changes_later_losses(folder, tmp_path):
    whole = make_trainer(folder)
    losses = train(whole, folder, 0, 4)
    first = make_trainer(folder)
    train(first, folder, 0, 2)
    checkpoints = CheckpointManager(StoragePath.of(tmp_path))
    checkpoints.save(first, TrainState(2), {})
    without_moments = make_trainer(folder)
    checkpoints.load_weights(2, without_moments.encoder)
    resumed = train(without_moments, folder, 2, 4)
    assert resumed[0] == losses[2]
    assert resumed[1] != losses[3]


# Gradients


def test_step_averages_the_gradients_of_its_batches(folder):
    one, other = batch(folder, 3, strategy="x-y"), batch(folder, 4, strategy="x-x-mono")
    trainer = make_trainer(folder, max_gradient_norm=UNCLIPPED)
    mean = (gradient(trainer, one) + gradient(trainer, other)) / 2
    losses = [float(trainer.loss(b).detach()) for b in (one, other)]
    result = trainer.step(0, [one, other])
    assert result.gradient_norm == pytest.approx(float(mean.norm()), rel=1e-5)
    assert result.loss == pytest.approx(sum(losses) / 2, rel=1e-6)
    # AdamW's first moment is a tenth of the gradient after one step.
    moments = trainer.optimizer_state()
    names = [name for name, p in trainer.dual.named_parameters() if p.requires_grad]
    first = torch.cat([moments[f"exp_avg/{name}"].flatten() for name in names])
    assert torch.allclose(first, mean / 10, rtol=1e-4, atol=1e-8)


def test_step_clips_the_gradient_and_reports_its_norm_before(folder):
    trainer = make_trainer(folder, max_gradient_norm=1e-3)
    norm = float(gradient(trainer, batch(folder, 0)).norm())
    assert norm > 1e-2
    assert trainer.step(0, [batch(folder, 0)]).gradient_norm == pytest.approx(norm, rel=1e-5)
    moments = [value for name, value in trainer.optimizer_state().items() if name.startswith("exp_avg/")]
    assert float(torch.cat([m.flatten() for m in moments]).norm()) == pytest.approx(1e-4, rel=1e-3)


def test_non_finite_gradient_changes_no_weight_and_no_moment(folder):
    trainer = make_trainer(folder)
    trainer.step(0, [batch(folder, 0)])
    weights = {name: weight.clone() for name, weight in trainer.encoder.state_dict().items()}
    moments = {name: moment.clone() for name, moment in trainer.optimizer_state().items()}
    hook = next(p for p in trainer.encoder.parameters() if p.requires_grad).register_hook(lambda g: g * torch.nan)
    assert trainer.step(1, [batch(folder, 1)]).skipped
    hook.remove()
    assert all(torch.equal(weight, weights[name]) for name, weight in trainer.encoder.state_dict().items())
    assert all(torch.equal(moment, moments[name]) for name, moment in trainer.optimizer_state().items())
    assert not trainer.step(2, [batch(folder, 2)]).skipped


def test_step_returns_the_signals_of_any_rank(folder):
    trainer = make_trainer(folder)
    assert trainer.step(0, [batch(folder, 0)], StepSignals(True, False)).any_rank_signals == StepSignals(True, False)
    assert trainer.step(1, [batch(folder, 1)]).any_rank_signals == StepSignals(False, False)


def test_trainer_freezes_exactly_the_parameters_without_gradient(folder):
    trainer = make_trainer(folder)
    frozen = {name for name, p in trainer.encoder.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in trainer.encoder.named_parameters() if ".pooler." in name}
    assert len(frozen) == 2  # BERT's pooler: a matrix and a bias, unused under mean pooling
    trainer.loss(batch(folder, 0)).backward()
    assert all((p.grad is not None) == p.requires_grad for p in trainer.encoder.parameters())
    optimized = {p for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimized == {p for p in trainer.encoder.parameters() if p.requires_grad}


def test_weight_decay_applies_to_matrices_only(folder):
    decaying, others = make_trainer(folder, weight_decay=0.1).optimizer.param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in decaying["params"]} == {2}
    assert {p.ndim for p in others["params"]} == {1}


# Chunks


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_embeddings_do_not_depend_on_the_number_of_ranks(folder, mix):
    dual = DualEncoder(tiny_corpus.make_encoder(folder / "encoder"), seed=5, chunk_pairs=2, bf16=False).train()
    whole = batch(folder, 7, **mix)
    positives, negatives = whole.positives, whole.num_negatives
    queries, passages = dual(whole)
    for num_ranks in (2, 4):
        for rank in range(num_ranks):
            own = batch(folder, 7, rank, num_ranks, **mix)
            pairs = slice(own.first_pair, own.first_pair + own.num_pairs)
            own_queries, own_passages = dual(own)
            assert torch.equal(own_queries[: own.num_pairs], queries[pairs])
            again = (whole.translation_of >= pairs.start) & (whole.translation_of < pairs.stop)
            assert torch.equal(own_queries[own.num_pairs :], queries[PAIRS:][torch.from_numpy(again)])
            right = slice(pairs.start * positives, pairs.stop * positives)
            assert torch.equal(own_passages[: own.num_pairs * positives], passages[right])
            hard = slice(PAIRS * positives + pairs.start * negatives, PAIRS * positives + pairs.stop * negatives)
            assert torch.equal(own_passages[own.num_pairs * positives :], passages[hard])


def test_dropout_differs_by_step_chunk_and_seed(folder):
    encoder = tiny_corpus.make_encoder(folder / "encoder", dropout=0.3)
    one = batch(folder, 7)

    def queries(seed: int, chunk_pairs: int, of: PairBatch) -> torch.Tensor:
        return DualEncoder(encoder, seed=seed, chunk_pairs=chunk_pairs, bf16=False).train()(of)[0]

    again = PairBatch(**{name: getattr(one, name) for name in PairBatch.__dataclass_fields__} | {"step": 8})
    assert torch.equal(queries(5, 4, one), queries(5, 4, one))
    assert not torch.equal(queries(5, 4, one), queries(5, 4, again))
    assert not torch.equal(queries(5, 4, one), queries(6, 4, one))
    twice = np.array([0, 1, 0, 1])  # the same two questions in both chunks
    ends = np.cumsum(one.query_lengths)
    rows = [one.query_ids[ends[n] - one.query_lengths[n] : ends[n]] for n in twice]
    doubled = PairBatch(
        **{name: getattr(one, name) for name in PairBatch.__dataclass_fields__}
        | {"query_ids": np.concatenate(rows), "query_lengths": one.query_lengths[twice]}
        | {"passage_ids": np.concatenate(rows), "passage_lengths": one.query_lengths[twice]}
    )
    vectors = queries(5, 2, doubled)
    assert not torch.equal(vectors[:2], vectors[2:])


def test_chunks_without_dropout_change_only_the_order_of_sums(folder):
    encoder = tiny_corpus.make_encoder(folder / "encoder", dropout=0.0)
    found = [DualEncoder(encoder, seed=5, chunk_pairs=pairs, bf16=False).train()(batch(folder, 7)) for pairs in (1, 8)]
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_embeddings_are_unit_vectors_also_of_batches_from_arrow(folder):
    trainer = make_trainer(folder)
    one = batch(folder, 2, strategy="x-x", hard_negatives=1)
    trainer.model.train()
    found = trainer.model(one)
    for vectors, again in zip(
        found, trainer.model(dataclass_from_arrow(dataclass_to_arrow(one), PairBatch)), strict=True
    ):
        assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-6)
        assert vectors.dtype == torch.float32
        assert torch.equal(vectors, again)


# Several positives and second questions, against a plain computation


def texts(ids: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(ids, np.cumsum(lengths)[:-1])


def vectors_of(encoder, sequences: list[np.ndarray]) -> torch.Tensor:
    """Return unit vectors of sequences, each encoded in its own call."""
    vectors = []
    for ids in sequences:
        row = torch.from_numpy(ids.astype(np.int64))[None]
        features = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        vectors.append(encoder(features)["sentence_embedding"][0])
    return torch.nn.functional.normalize(torch.stack(vectors), dim=1)


def plain_loss(encoder, one: PairBatch, temperature: float, consistency: float) -> torch.Tensor:
    """Compute the loss term by term from its definition."""
    questions, answers = texts(one.query_ids, one.query_lengths), texts(one.passage_ids, one.passage_lengths)
    queries, passages = vectors_of(encoder, questions), vectors_of(encoder, answers)
    own = [range(i * one.positives, (i + 1) * one.positives) for i in range(one.num_pairs)]
    terms = []
    for i in range(one.num_pairs):
        equal = [j for j in range(one.num_pairs) if np.array_equal(questions[i], questions[j])]
        right = {k for j in equal for k in own[j]}
        right |= {j for j, text in enumerate(answers) if any(np.array_equal(text, answers[k]) for k in own[i])}
        for k in own[i]:
            against = [k, *(j for j in range(len(answers)) if j not in right)]
            terms.append(-torch.log_softmax(passages[against] @ queries[i] / temperature, dim=0)[0])
    divergences = []
    for again, i in enumerate(one.translation_of.tolist()):
        both = queries[i], queries[one.num_pairs + again]
        p, r = (torch.softmax(passages @ query / temperature, dim=0) for query in both)
        divergences += [(p * (p / r).log()).sum() / 2, (r * (r / p).log()).sum() / 2]
    loss = torch.stack(terms).mean()
    return loss + consistency * sum(divergences) / one.num_pairs if divergences else loss


@pytest.mark.parametrize("attention", ["packed", "eager"])
@pytest.mark.parametrize(
    ("mix", "step"),
    [
        ({"strategy": "one-to-k", "positive_languages": 3, "hard_negatives": 1}, 3),
        ({"strategy": "one-to-k", "second_questions": True}, 3),
        ({"strategy": "x-x", "hard_negatives": 1, "second_questions": True}, 3),
        ({"strategy": "x-y", "cross_pairs": "mixed", "second_questions": True}, 3),
        ({"strategy": "x-x-mono", "second_questions": True}, 0),
        ({"strategy": "hybrid", "second_questions": True}, 3),
    ],
    ids=str,
)
def test_loss_and_gradient_equal_those_of_a_plain_computation(folder, mix, step, attention):
    consistency = 3.0 if mix.get("second_questions") else 0.0
    trainer = make_trainer(folder, 0.0, attention, consistency, temperature=0.1)
    one = batch(folder, step, **mix)
    assert bool(len(one.translation_of)) == bool(consistency)
    found, loss = gradient(trainer, one), float(trainer.loss(one).detach())
    reference = make_trainer(folder, 0.0, "eager")
    reference.model.train()
    plain = plain_loss(reference.encoder, one, 0.1, consistency)
    assert loss == pytest.approx(float(plain.detach()), rel=1e-5)
    expected = gradient_of(reference, plain)
    assert (found - expected).norm() < 1e-4 * expected.norm()
    if consistency:
        without = float(make_trainer(folder, 0.0, attention, temperature=0.1).loss(one).detach())
        assert loss > without * (1 + 1e-4)


def test_query_translations_have_independent_dropout(folder):
    one = batch(folder, 7, strategy="x-y")
    texts_of = np.concatenate([one.query_ids] * 2), np.concatenate([one.query_lengths] * 2)
    twice = replace(
        one, query_ids=texts_of[0], query_lengths=texts_of[1], translation_of=np.arange(PAIRS, dtype=np.int32)
    )
    for attention in ("packed", "eager"):
        encoder = tiny_corpus.make_encoder(folder / "encoder", 0.3, attention=attention)
        dual = DualEncoder(encoder, seed=5, chunk_pairs=4, bf16=False)
        questions, again = dual.train()(twice)[0].split(PAIRS)
        assert ((questions - again).norm(dim=1) > 0.01).all()
        questions, again = dual.eval()(twice)[0].split(PAIRS)
        assert torch.allclose(questions, again, atol=1e-6)


def test_validation_loss_includes_consistency(folder):
    own = make_trainer(folder, 0.0, consistency=2.0)
    batches = [batch(folder, step, strategy="hybrid", second_questions=True) for step in (0, 1)]
    expected = float(np.mean([float(own.loss(b).detach()) for b in batches]))
    assert own.validation_loss(batches) == pytest.approx(expected, rel=1e-6)
    assert expected > make_trainer(folder, 0.0).validation_loss(batches)


# Micro-batches


def test_micro_batches_divide_chunks_of_many_tokens(folder):
    encoder = tiny_corpus.make_encoder(folder / "encoder")
    one = batch(folder, 7, strategy="x-x", hard_negatives=1)
    pairs = one.query_lengths + one.passage_lengths[:PAIRS] + one.passage_lengths[PAIRS:]
    most = int(pairs[:2].sum())
    dual = DualEncoder(encoder, seed=5, chunk_pairs=4, bf16=False, max_tokens=most)
    pieces = dual.micro_batches(one)
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert (pieces[0].start, pieces[-1].end) == (0, PAIRS)
    assert pieces[0].end == 2
    for piece in pieces:
        assert piece.end - piece.start == 1 or pairs[piece.start : piece.end].sum() <= most
        assert {pair // 4 for pair in range(piece.start, piece.end)} == {piece.chunk}
    assert len({(piece.chunk, piece.number) for piece in pieces}) == len(pieces)
    assert [(p.start, p.end) for p in DualEncoder(encoder, seed=5, chunk_pairs=4, bf16=False).micro_batches(one)] == [
        (0, 4),
        (4, 8),
    ]
    # A pair longer than `max_tokens` is a micro-batch by itself.
    single = DualEncoder(encoder, seed=5, chunk_pairs=4, bf16=False, max_tokens=1).micro_batches(one)
    assert [(p.start, p.end) for p in single] == [(pair, pair + 1) for pair in range(PAIRS)]


# Learning


def test_training_lowers_the_loss_from_that_of_guessing(folder):
    losses = train(make_trainer(folder, steps=60), folder, 0, 60)
    assert np.mean(losses[:5]) == pytest.approx(math.log(8), abs=0.1)
    assert np.mean(losses[-10:]) < 0.75 * math.log(8)


def test_consistency_brings_scores_in_two_languages_together(folder):
    mix = {"strategy": "x-x-mono", "second_questions": True}
    held_out = [batch(folder, step, **mix) for step in range(100, 104)]
    divergences = []
    for weight in (0.0, 1.0):
        trainer = make_trainer(folder, 0.0, consistency=weight, steps=40)
        for step in range(40):
            trainer.step(step, [batch(folder, step, **mix)])
        losses = []
        for measured in (0.0, 1.0):
            trainer.combined_loss = CombinedLoss.from_config(
                LossConfig(consistency=measured), trainer.train.temperature
            )
            losses.append(trainer.validation_loss(held_out))
        divergences.append(losses[1] - losses[0])
    assert divergences[1] < divergences[0] / 4


def test_validation_loss_is_without_dropout_and_changes_no_state(folder):
    trainer = make_trainer(folder, dropout=0.3)
    before = {name: weight.clone() for name, weight in trainer.encoder.state_dict().items()}
    batches = [batch(folder, step) for step in (0, 1)]
    loss = trainer.validation_loss(batches)
    assert trainer.validation_loss(iter(batches)) == loss
    undropped = make_trainer(folder, dropout=0.0)
    assert loss == pytest.approx(float(np.mean([float(undropped.loss(b).detach()) for b in batches])), rel=1e-6)
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.encoder.state_dict().items())
    assert trainer.optimizer_state() == {}


def test_bf16_trains_float32_weights_to_a_similar_loss(folder):
    trainer = make_trainer(folder, dropout=0.0, precision="bf16")
    exact = make_trainer(folder, dropout=0.0)
    losses, expected = train(trainer, folder, 0, 3), train(exact, folder, 0, 3)
    assert losses != expected
    assert losses == pytest.approx(expected, rel=0.1)
    assert {p.dtype for p in trainer.encoder.parameters()} == {torch.float32}
    queries, passages = trainer.model(batch(folder, 0))
    assert queries.dtype == passages.dtype == torch.float32


@pytest.mark.parametrize("family", ["mpnet", "albert"])
def test_family_that_cannot_recompute_activations_is_refused_in_one_sentence(tmp_path, family):
    path = open_bases.write_base(tmp_path / family, family)
    encoder = load_for_training(ModelConfig(path=str(path)), tiny_corpus.TEXT, path)
    with pytest.raises(ConfigError, match=rf"{family}.*; write train.gradient_checkpointing=false .*caching=true"):
        ContrastiveTrainer(encoder, TrainConfig(gradient_checkpointing=True), seed=0)
