"""Training is a function of weights, moments and the step: stopped, resumed or shared, it comes out the same."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hbt_ray.config import LossConfig, TrainConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.losses.combined import CombinedLoss
from hbt_ray.models.dual_encoder import DualEncoder
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import build_batch
from hbt_ray.training.base_trainer import StepSignals, learning_rate
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
from hbt_ray.training.train_state import TrainState
from hbt_ray.utils.arrow import dataclass_from_arrow, dataclass_to_arrow
from hbt_ray.utils.storage import StoragePath
from tests.helpers import tiny_corpus

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = 8
UNCLIPPED = 1e6
MIXES = [
    {"strategy": "x-y"},
    {"strategy": "x-x", "hard_negatives": 1},
    {"strategy": "one-to-k", "positive_languages": 3},
    {"strategy": "one-to-k", "hard_negatives": 1},
    {"strategy": "hybrid", "second_questions": True},
    {"strategy": "x-x", "hard_negatives": 1, "second_questions": True},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made: Path = tmp_path_factory.mktemp("training")
    tiny_corpus.make_store(made / "store", negatives=1)
    tiny_corpus.make_store(made / "store-alone", negatives=1, alone=30)
    tiny_corpus.make_encoder(made / "encoder")
    return made


def make_trainer(
    folder: Path, dropout: float = 0.1, attention: str = "auto", consistency: float = 0.0, **train
) -> ContrastiveTrainer:
    defaults = {"steps": 10, "global_batch_pairs": PAIRS, "chunk_pairs": 4, "precision": "fp32", "learning_rate": 1e-2}
    encoder = tiny_corpus.make_encoder(folder / "encoder", dropout, attention=attention)
    return ContrastiveTrainer(
        encoder, TrainConfig(**defaults | train), seed=5, loss=LossConfig(consistency=consistency)
    )


def batch(folder: Path, step: int, rank: int = 0, num_ranks: int = 1, **mix) -> PairBatch:
    """Of the store in which some items are in one language alone, where there are second questions."""
    store = TokenStore.open(folder / ("store-alone" if mix.get("second_questions") else "store"))
    return build_batch(tiny_corpus.make_plan(store, PAIRS, **mix).batch(step), store, rank, num_ranks)


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


# The learning rate


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        # 10 steps, 2 of warm-up: 1/2, 2/2, then the 8 steps of the schedule.
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ("cosine", [0.5, 1, 1, None, 0.5 + math.sqrt(0.125), None, 0.5, None, 0.5 - math.sqrt(0.125), None, 0]),
    ],
)
def test_the_rate_warms_up_and_follows_its_schedule_to_the_end(schedule, rates):
    train = TrainConfig(steps=10, warmup_share=0.2, learning_rate=4.0, schedule=schedule)
    for step, rate in enumerate(rates):
        if rate is not None:
            assert learning_rate(step, train) == pytest.approx(4 * rate, abs=1e-12), step


def test_without_warm_up_the_first_step_has_the_full_rate_and_all_may_be_warm_up():
    assert learning_rate(0, TrainConfig(steps=10, warmup_share=0, learning_rate=4.0)) == 4.0
    rates = [learning_rate(step, TrainConfig(steps=4, warmup_share=1, learning_rate=4.0)) for step in range(4)]
    assert rates == [1, 2, 3, 4]


def test_a_step_reports_the_rate_it_used(folder):
    trainer = make_trainer(folder, steps=10, warmup_share=0.2, learning_rate=0.004)
    assert trainer.step(0, [batch(folder, 0)]).learning_rate == 0.002
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.002}


# Stopping and going on


def test_ten_steps_are_six_a_checkpoint_and_four_in_a_fresh_trainer_bit_for_bit(folder, tmp_path):
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


def test_dropout_was_on_so_the_equality_after_resuming_says_something(folder):
    assert train(make_trainer(folder, dropout=0.1), folder, 0, 1) != train(make_trainer(folder, 0.0), folder, 0, 1)


def test_moments_left_behind_would_change_what_follows(folder, tmp_path):
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


def test_the_gradient_of_two_batches_is_the_mean_of_their_gradients(folder):
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


def test_a_long_gradient_is_clipped_and_reported_as_it_was(folder):
    trainer = make_trainer(folder, max_gradient_norm=1e-3)
    norm = float(gradient(trainer, batch(folder, 0)).norm())
    assert norm > 1e-2
    assert trainer.step(0, [batch(folder, 0)]).gradient_norm == pytest.approx(norm, rel=1e-5)
    moments = [value for name, value in trainer.optimizer_state().items() if name.startswith("exp_avg/")]
    assert float(torch.cat([m.flatten() for m in moments]).norm()) == pytest.approx(1e-4, rel=1e-3)


def test_a_gradient_that_is_not_finite_moves_neither_weights_nor_moments(folder):
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


def test_what_takes_no_part_in_the_vectors_is_frozen_and_all_else_has_a_gradient(folder):
    trainer = make_trainer(folder)
    frozen = {name for name, p in trainer.encoder.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in trainer.encoder.named_parameters() if ".pooler." in name}
    assert len(frozen) == 2  # BERT's pooler: a matrix and a bias, unused under mean pooling
    trainer.loss(batch(folder, 0)).backward()
    assert all((p.grad is not None) == p.requires_grad for p in trainer.encoder.parameters())
    optimized = {p for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimized == {p for p in trainer.encoder.parameters() if p.requires_grad}


def test_matrices_decay_and_biases_and_gains_do_not(folder):
    decaying, others = make_trainer(folder, weight_decay=0.1).optimizer.param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in decaying["params"]} == {2}
    assert {p.ndim for p in others["params"]} == {1}


# Chunks


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_a_chunks_vectors_do_not_depend_on_what_else_its_rank_holds(folder, mix):
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
            again = (whole.second_of >= pairs.start) & (whole.second_of < pairs.stop)
            assert torch.equal(own_queries[own.num_pairs :], queries[PAIRS:][torch.from_numpy(again)])
            right = slice(pairs.start * positives, pairs.stop * positives)
            assert torch.equal(own_passages[: own.num_pairs * positives], passages[right])
            hard = slice(PAIRS * positives + pairs.start * negatives, PAIRS * positives + pairs.stop * negatives)
            assert torch.equal(own_passages[own.num_pairs * positives :], passages[hard])


def test_dropout_differs_from_step_to_step_from_chunk_to_chunk_and_by_seed(folder):
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


def test_without_dropout_chunks_change_nothing_but_the_order_of_sums(folder):
    encoder = tiny_corpus.make_encoder(folder / "encoder", dropout=0.0)
    found = [DualEncoder(encoder, seed=5, chunk_pairs=pairs, bf16=False).train()(batch(folder, 7)) for pairs in (1, 8)]
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_vectors_have_unit_length_and_come_from_arrow_too(folder):
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
    alone = []
    for ids in sequences:
        own = torch.from_numpy(ids.astype(np.int64))[None]
        features = {"input_ids": own, "attention_mask": torch.ones_like(own)}
        alone.append(encoder(features)["sentence_embedding"][0])
    return torch.nn.functional.normalize(torch.stack(alone), dim=1)


def plain_loss(encoder, one: PairBatch, temperature: float, consistency: float) -> torch.Tensor:
    """Term by term, from the definitions."""
    questions, answers = texts(one.query_ids, one.query_lengths), texts(one.passage_ids, one.passage_lengths)
    asked, passages = vectors_of(encoder, questions), vectors_of(encoder, answers)
    own = [range(i * one.positives, (i + 1) * one.positives) for i in range(one.num_pairs)]
    terms = []
    for i in range(one.num_pairs):
        equal = [j for j in range(one.num_pairs) if np.array_equal(questions[i], questions[j])]
        right = {k for j in equal for k in own[j]}
        right |= {j for j, text in enumerate(answers) if any(np.array_equal(text, answers[k]) for k in own[i])}
        for k in own[i]:
            against = [k, *(j for j in range(len(answers)) if j not in right)]
            terms.append(-torch.log_softmax(passages[against] @ asked[i] / temperature, dim=0)[0])
    divergences = []
    for again, i in enumerate(one.second_of.tolist()):
        p, r = (torch.softmax(passages @ of / temperature, dim=0) for of in (asked[i], asked[one.num_pairs + again]))
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
def test_loss_and_gradient_are_those_of_texts_encoded_one_by_one_and_scored_term_by_term(folder, mix, step, attention):
    consistency = 3.0 if mix.get("second_questions") else 0.0
    trainer = make_trainer(folder, 0.0, attention, consistency, temperature=0.1)
    one = batch(folder, step, **mix)
    assert bool(len(one.second_of)) == bool(consistency)
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


def test_a_question_asked_again_has_dropout_of_its_own(folder):
    one = batch(folder, 7, strategy="x-y")
    texts_of = np.concatenate([one.query_ids] * 2), np.concatenate([one.query_lengths] * 2)
    twice = replace(one, query_ids=texts_of[0], query_lengths=texts_of[1], second_of=np.arange(PAIRS, dtype=np.int32))
    for attention in ("packed", "eager"):
        encoder = tiny_corpus.make_encoder(folder / "encoder", 0.3, attention=attention)
        dual = DualEncoder(encoder, seed=5, chunk_pairs=4, bf16=False)
        questions, again = dual.train()(twice)[0].split(PAIRS)
        assert ((questions - again).norm(dim=1) > 0.01).all()
        questions, again = dual.eval()(twice)[0].split(PAIRS)
        assert torch.allclose(questions, again, atol=1e-6)


def test_consistency_is_validated_as_it_is_trained(folder):
    own = make_trainer(folder, 0.0, consistency=2.0)
    batches = [batch(folder, step, strategy="hybrid", second_questions=True) for step in (0, 1)]
    expected = float(np.mean([float(own.loss(b).detach()) for b in batches]))
    assert own.validation_loss(batches) == pytest.approx(expected, rel=1e-6)
    assert expected > make_trainer(folder, 0.0).validation_loss(batches)


# Gradient caching


@pytest.mark.parametrize("attention", ["packed", "eager"])
@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_gradient_caching_gives_the_gradient_and_loss_of_the_whole_batch(folder, mix, attention):
    results = []
    for caching in ({}, {"gradient_caching": True}, {"gradient_checkpointing": True}):
        consistency = 0.7 if mix.get("second_questions") else 0.0
        trainer = make_trainer(
            folder, 0.1, attention, consistency, chunk_pairs=2, max_gradient_norm=UNCLIPPED, **caching
        )
        one, other = batch(folder, 3, **mix), batch(folder, 4, **mix)
        result = trainer.step(0, [one, other])
        moments = trainer.optimizer_state()
        results.append((result.loss, torch.cat([m.flatten() for name, m in moments.items() if "exp_avg/" in name])))
    loss, gradient_of_whole = results[0]
    for own_loss, own_gradient in results[1:]:
        assert own_loss == loss
        # Only the order of float32 sums differs.
        assert (own_gradient - gradient_of_whole).norm() < 1e-5 * gradient_of_whole.norm()


def test_a_chunk_of_many_tokens_passes_in_pieces_each_with_its_own_dropout(folder):
    encoder = tiny_corpus.make_encoder(folder / "encoder")
    one = batch(folder, 7, strategy="x-x", hard_negatives=1)
    pairs = one.query_lengths + one.passage_lengths[:PAIRS] + one.passage_lengths[PAIRS:]
    most = int(pairs[:2].sum())
    dual = DualEncoder(encoder, seed=5, chunk_pairs=4, bf16=False, piece_tokens=most)
    pieces = dual.pieces(one)
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert (pieces[0].start, pieces[-1].end) == (0, PAIRS)
    assert pieces[0].end == 2
    for piece in pieces:
        assert piece.end - piece.start == 1 or pairs[piece.start : piece.end].sum() <= most
        assert {pair // 4 for pair in range(piece.start, piece.end)} == {piece.chunk}
    assert len({(piece.chunk, piece.number) for piece in pieces}) == len(pieces)
    assert [(p.start, p.end) for p in DualEncoder(encoder, seed=5, chunk_pairs=4, bf16=False).pieces(one)] == [
        (0, 4),
        (4, 8),
    ]
    # A text longer than is wanted still passes, alone.
    alone = DualEncoder(encoder, seed=5, chunk_pairs=4, bf16=False, piece_tokens=1).pieces(one)
    assert [(p.start, p.end) for p in alone] == [(pair, pair + 1) for pair in range(PAIRS)]


# Learning


def test_the_loss_falls_from_that_of_guessing_one_of_8(folder):
    losses = train(make_trainer(folder, steps=60), folder, 0, 60)
    assert np.mean(losses[:5]) == pytest.approx(math.log(8), abs=0.1)
    assert np.mean(losses[-10:]) < 0.75 * math.log(8)


def test_training_with_consistency_brings_scores_in_two_languages_together(folder):
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


def test_validation_measures_without_dropout_and_changes_nothing(folder):
    trainer = make_trainer(folder, dropout=0.3)
    before = {name: weight.clone() for name, weight in trainer.encoder.state_dict().items()}
    batches = [batch(folder, step) for step in (0, 1)]
    loss = trainer.validation_loss(batches)
    assert trainer.validation_loss(iter(batches)) == loss
    undropped = make_trainer(folder, dropout=0.0)
    assert loss == pytest.approx(float(np.mean([float(undropped.loss(b).detach()) for b in batches])), rel=1e-6)
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.encoder.state_dict().items())
    assert trainer.optimizer_state() == {}


def test_bf16_trains_float32_weights_to_nearly_the_same_loss(folder):
    trainer = make_trainer(folder, dropout=0.0, precision="bf16")
    exact = make_trainer(folder, dropout=0.0)
    losses, expected = train(trainer, folder, 0, 3), train(exact, folder, 0, 3)
    assert losses != expected
    assert losses == pytest.approx(expected, rel=0.1)
    assert {p.dtype for p in trainer.encoder.parameters()} == {torch.float32}
    queries, passages = trainer.model(batch(folder, 0))
    assert queries.dtype == passages.dtype == torch.float32
