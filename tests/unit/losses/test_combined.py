"""The weighted sum of losses: on paper, against a plain implementation, and in the trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hbt_ray.config import DistillationConfig, LossConfig, TrainConfig, build_config, load_config
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.losses.combined import CombinedLoss
from hbt_ray.losses.consistency import TranslationConsistency
from hbt_ray.losses.distillation import Distillation
from hbt_ray.losses.info_nce import InfoNCE
from hbt_ray.models.encoder import init_encoder, open_teacher, save_encoder
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import build_batch
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer, build_contrastive_trainer
from hbt_ray.training.resume import changed_settings
from hbt_ray.training.train_state import TrainState
from hbt_ray.utils.storage import StoragePath
from tests.helpers import tiny_corpus
from tests.helpers.loss_inputs import make_loss_inputs

pytestmark = pytest.mark.usefixtures("one_thread")

EYE = torch.eye(4)
SYMMETRIC = LossConfig(symmetric=True)
TRUNCATED = LossConfig(matryoshka=(3, 8))
DISTILLED = LossConfig(distillation=DistillationConfig(teacher="", weight=0.5, temperature=0.2))
ALL = LossConfig(symmetric=True, matryoshka=(3, 8), distillation=DISTILLED.distillation)
SETTINGS = {"symmetric": SYMMETRIC, "matryoshka": TRUNCATED, "distillation": DISTILLED, "all": ALL}


def reference(
    settings: LossConfig,
    queries: Tensor,
    passages: Tensor,
    query_ids: Sequence[int],
    passage_ids: Sequence[int],
    temperature: float,
    teacher: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Compute the loss of a whole batch query by query and passage by passage."""
    pairs = len(queries)

    def is_masked(pair: int, other: int) -> bool:
        """Return True for another pair's passage, or a hard negative, that is known to be relevant to a pair."""
        same_query = other < pairs and query_ids[pair] == query_ids[other]
        return pair != other and (same_query or passage_ids[pair] == passage_ids[other])

    def cross_entropy(scores: Tensor, positive: int, masked: Sequence[bool]) -> Tensor:
        kept = torch.stack([score for score, out in zip(scores, masked, strict=True) if not out])
        return kept.exp().sum().log() - scores[positive]

    of_widths = []
    for width in {*settings.matryoshka, queries.shape[1]}:
        q, p = queries, passages
        if width < queries.shape[1]:
            q, p = (v[:, :width] / v[:, :width].norm(dim=1, keepdim=True) for v in (q, p))
        scores = q @ p.T / temperature
        rows = [cross_entropy(scores[i], i, [is_masked(i, j) for j in range(len(p))]) for i in range(pairs)]
        loss = torch.stack(rows).mean()
        if settings.symmetric:
            columns = [cross_entropy(scores[:, i], i, [is_masked(i, j) for j in range(pairs)]) for i in range(pairs)]
            loss = (loss + torch.stack(columns).mean()) / 2
        if settings.distillation and teacher:
            t = settings.distillation.temperature
            p_teacher, p_student = (
                of / of.sum(1, keepdim=True) for of in ((teacher[0] @ teacher[1].T / t).exp(), (q @ p.T / t).exp())
            )
            loss = loss + settings.distillation.weight * (p_teacher * (p_teacher / p_student).log()).sum(1).mean()
        of_widths.append(loss)
    return torch.stack(of_widths).mean()


# Values worked out on paper


def combined(
    settings: LossConfig, queries: Tensor, passages: Tensor, teacher: tuple[Tensor, Tensor] | None = None
) -> float:
    inputs = make_loss_inputs(queries, passages, teacher=teacher)
    return float(CombinedLoss.from_config(settings, temperature=1.0)(inputs))


def test_embeddings_are_truncated_and_normalized_again():
    vectors = torch.tensor([[0.6, 0.8], [-0.6, 0.8]])
    whole = math.log(1 + math.exp(0.28 - 1))  # the other's score is 0.64 - 0.36
    truncated = math.log(1 + math.exp(-1 - 1))  # 1 and -1
    assert combined(LossConfig(), vectors, vectors) == pytest.approx(whole, rel=1e-6)
    for widths in ((1,), (1, 2), (2, 1)):  # the whole width counts, and once
        found = combined(LossConfig(matryoshka=widths), vectors, vectors)
        assert found == pytest.approx((whole + truncated) / 2, rel=1e-6)


def test_distillation_is_added_with_its_weight():
    undecided, teacher = EYE[[2, 3]], (EYE[:2], EYE[:2])
    settings = LossConfig(distillation=DistillationConfig(teacher="", weight=3.0, temperature=0.5))
    p = 1 / (1 + math.exp(-2))  # the teacher's, of the passage with score 1 against that with score 0
    divergence = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    # The student's scores are all 0: InfoNCE is that of guessing one of two.
    assert combined(settings, undecided, EYE[:2], teacher) == pytest.approx(math.log(2) + 3 * divergence, rel=1e-5)


def test_student_with_the_teachers_scores_has_the_loss_of_infonce():
    distilled = combined(DISTILLED, EYE[:2], EYE, (EYE[:2], EYE))
    assert distilled == pytest.approx(combined(LossConfig(), EYE[:2], EYE), rel=1e-6)


# Against plain implementations


def random_vectors(count: int, width: int, seed: int) -> Tensor:
    made = torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width)))
    return torch.nn.functional.normalize(made, dim=1)


@pytest.mark.parametrize("negatives", [0, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_value_and_gradient_equal_a_plain_implementation(name, negatives):
    queries, passages = random_vectors(6, 12, 1), random_vectors(6 * (1 + negatives), 12, 2)
    teacher = random_vectors(6, 5, 3), random_vectors(len(passages), 5, 4)
    query_ids = [0, 1, 1, 3, 4, 5]
    passage_ids = [10, 11, 12, 10, 14, 15]
    if negatives:  # one of them is another pair's positive
        passage_ids += [20, 11, *range(30, 40)]
    queries.requires_grad_(), passages.requires_grad_()
    inputs = make_loss_inputs(queries, passages, query_ids, passage_ids, teacher=teacher)
    found = CombinedLoss.from_config(SETTINGS[name], temperature=0.1)(inputs)
    expected = reference(SETTINGS[name], queries, passages, query_ids, passage_ids, 0.1, teacher)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    assert abs((found - InfoNCE(0.1)(inputs)).item()) > 1e-3
    for one, other in zip(*(torch.autograd.grad(of, (queries, passages)) for of in (found, expected)), strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-10)


def test_default_settings_give_infonce_bit_for_bit():
    queries, passages = (random_vectors(n, 12, n).float().requires_grad_() for n in (5, 15))
    inputs = make_loss_inputs(queries, passages, torch.arange(5), torch.arange(15))
    both = [CombinedLoss.from_config(LossConfig(), temperature=0.05)(inputs), InfoNCE(0.05)(inputs)]
    assert torch.equal(*both)
    for one, other in zip(*(torch.autograd.grad(of, (queries, passages)) for of in both), strict=True):
        assert torch.equal(one, other)


def test_every_loss_is_added_at_each_width():
    generator = torch.Generator().manual_seed(0)
    queries, passages, teacher_queries, teacher_passages = (
        torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=1) for rows in (4 + 2, 8, 4, 8)
    )
    inputs = make_loss_inputs(
        queries[:4],
        passages,
        range(4),
        range(10, 18),
        positives=2,
        translations=(queries[4:], [1, 3]),
        teacher=(teacher_queries, teacher_passages),
    )
    settings = LossConfig(
        matryoshka=(3,), consistency=2.0, distillation=DistillationConfig(teacher="", weight=0.5, temperature=0.2)
    )
    found = CombinedLoss.from_config(settings, temperature=0.1)(inputs)
    expected = 0.0
    for width in (3, 8):
        truncated = inputs.truncated(width)
        expected += InfoNCE(0.1)(truncated) / 2
        expected += 0.5 * Distillation(0.2)(truncated) / 2
        expected += 2.0 * TranslationConsistency(0.1)(truncated) / 2
    assert math.isclose(float(found), float(expected), rel_tol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_are_those_that_are_switched_on(name):
    losses = {type(loss) for loss in CombinedLoss.from_config(SETTINGS[name], temperature=0.1).losses}
    assert losses == ({InfoNCE, Distillation} if SETTINGS[name].distillation else {InfoNCE})


@pytest.mark.parametrize("settings", [LossConfig(), LossConfig(consistency=0.5)])
def test_configuration_agrees_with_the_losses_on_translations(settings):
    losses = CombinedLoss.from_config(settings, temperature=0.1).losses
    assert settings.requires_translations == any(loss.requires_translations for loss in losses)


# In the trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made: Path = tmp_path_factory.mktemp("losses")
    tiny_corpus.make_store(made / "store", negatives=1)
    tiny_corpus.make_encoder(made / "encoder")
    wider = tiny_corpus.MODEL.small.model_copy(update={"width": 24})
    teacher = init_encoder(
        tiny_corpus.MODEL.model_copy(update={"small": wider}), tiny_corpus.TEXT, tiny_corpus.tokenizer(), seed=9
    )
    save_encoder(teacher, made / "teacher")
    return made


def make_trainer(
    folder: Path, settings: LossConfig, dropout: float = 0.1, attention: str = "auto", **train
) -> ContrastiveTrainer:
    defaults = {"steps": 10, "global_batch_pairs": 8, "chunk_pairs": 2, "precision": "fp32", "learning_rate": 1e-2}
    encoder = tiny_corpus.make_encoder(folder / "encoder", dropout, attention=attention)
    teacher = open_teacher(str(folder / "teacher"), encoder, tiny_corpus.MODEL) if settings.distillation else None
    return ContrastiveTrainer(encoder, TrainConfig(**defaults | train), seed=5, loss=settings, teacher=teacher)


def batch(folder: Path, step: int, **mix) -> PairBatch:
    store = TokenStore.open(folder / "store")
    return build_batch(tiny_corpus.make_sampler(store, 8, strategy="x-x", hard_negatives=1, **mix).batch(step), store)


def gradient(of: Tensor, trainer: ContrastiveTrainer) -> Tensor:
    trainer.optimizer.zero_grad(set_to_none=True)
    of.backward()
    return torch.cat([p.grad.flatten() for p in trainer.encoder.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", SETTINGS)
def test_trainers_loss_and_gradient_equal_a_plain_implementation(folder, name):
    trainer, one = make_trainer(folder, SETTINGS[name]), batch(folder, 3)
    trainer.model.train()
    teacher = None
    if trainer.teacher is not None:
        with torch.no_grad():
            teacher = tuple(vectors.double() for vectors in trainer.teacher(one))
        assert teacher[0].shape == (8, 24)
    keys = one.query_keys.tolist(), one.passage_keys.tolist()
    vectors = (vectors.double() for vectors in trainer.dual(one))
    expected = reference(SETTINGS[name], *vectors, *keys, trainer.train.temperature, teacher)
    found = trainer.loss(one)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    of_found, of_expected = gradient(found, trainer), gradient(expected, trainer)
    assert (of_found - of_expected).norm() < 1e-4 * of_expected.norm()


@pytest.mark.parametrize("attention", ["packed", "eager"])
@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_caching_and_accumulation_keep_the_gradient(folder, name, attention):
    results = []
    for caching in ({}, {"gradient_caching": True, "chunk_tokens": 60}):
        trainer = make_trainer(folder, SETTINGS[name], 0.0, attention, max_gradient_norm=1e6, **caching)
        result = trainer.step(0, [batch(folder, 3), batch(folder, 4)])
        moments = trainer.optimizer_state()
        results.append((result.loss, torch.cat([m.flatten() for name, m in moments.items() if "exp_avg/" in name])))
    (whole, of_whole), (cached, of_cached) = results
    assert cached == pytest.approx(whole, rel=1e-6)
    assert (of_cached - of_whole).norm() < 1e-5 * of_whole.norm()


def test_teacher_is_neither_optimized_nor_saved(folder, tmp_path):
    trainer = make_trainer(folder, ALL)
    plain = make_trainer(folder, LossConfig())
    teacher = trainer.teacher
    assert teacher is not None
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    one = batch(folder, 0)
    vectors = teacher(one)
    losses = [trainer.step(step, [batch(folder, step)]).loss for step in range(3)]
    assert losses != [plain.step(step, [batch(folder, step)]).loss for step in range(3)]
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert all(torch.equal(*pair) for pair in zip(vectors, teacher(one), strict=True))  # no dropout, after training too
    assert not any(p.requires_grad for p in teacher.parameters())
    assert trainer.optimizer_state().keys() == plain.optimizer_state().keys()
    for name, of in (("taught", trainer), ("plain", plain)):
        CheckpointManager(StoragePath.of(tmp_path / name)).save(of, TrainState(3), {})
    sizes = {(tmp_path / n / "step-000000003" / "weights.safetensors").stat().st_size for n in ("taught", "plain")}
    assert len(sizes) == 1


def test_distillation_reduces_the_divergence_from_the_teacher(folder):
    heavy = LossConfig(distillation=DistillationConfig(teacher="", weight=100.0, temperature=0.1))
    trainer, one = make_trainer(folder, heavy, dropout=0.0, schedule="constant", steps=30), batch(folder, 0)
    assert trainer.teacher is not None

    def divergence() -> float:
        inputs = make_loss_inputs(*trainer.dual(one), teacher=trainer.teacher(one))
        return float(Distillation(0.1)(inputs).detach())

    before = divergence()
    for step in range(30):
        trainer.step(step, [one])
    assert divergence() < 0.2 * before


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_in_bf16_is_nearly_that_in_float32(folder, name):
    exact = make_trainer(folder, SETTINGS[name], 0.0).step(0, [batch(folder, 0)]).loss
    rounded = make_trainer(folder, SETTINGS[name], 0.0, precision="bf16").step(0, [batch(folder, 0)]).loss
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("name", SETTINGS)
def test_validation_loss_is_the_loss_that_is_trained(folder, name):
    trainer, one = make_trainer(folder, SETTINGS[name], 0.0), batch(folder, 0)
    assert trainer.validation_loss([one]) == pytest.approx(float(trainer.loss(one).detach()), rel=1e-6)


# Settings that are refused


def test_width_above_the_encoders_is_refused(folder):
    said = r"loss\.matryoshka names 17, and the encoder's vectors have 16 values; write widths below 16$"
    with pytest.raises(ConfigError, match=said):
        make_trainer(folder, LossConfig(matryoshka=(8, 17)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"matryoshka": [8, 8]}, r"loss\.matryoshka: \[8, 8\] names a width twice"),
        ({"matryoshka": [0]}, r"loss\.matryoshka\.0 is 0: "),
        ({"distillation": {}}, r"loss\.distillation\.teacher is {}: field required"),
        ({"distillation": {"teacher": "x", "temperature": 0}}, r"loss\.distillation\.temperature is 0: "),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        build_config({"loss": settings})


# Settings


def test_trainer_of_a_configuration_has_its_teacher(folder):
    config = build_config(
        {
            "text": tiny_corpus.TEXT.model_dump(),
            "train": {"global_batch_pairs": 8, "chunk_pairs": 2, "precision": "fp32"},
            "loss": {"distillation": {"teacher": str(folder / "teacher"), "weight": 0.5, "temperature": 0.2}},
        }
    )
    one = batch(folder, 0)
    expected = make_trainer(folder, DISTILLED).validation_loss([one])
    assert build_contrastive_trainer(config, folder / "encoder", "cpu").validation_loss([one]) == expected


@pytest.mark.parametrize(
    "override",
    [
        "loss.symmetric=true",
        "matryoshka=[8]",
        "distillation={teacher: x}",
        "teacher=x",
        "model.lora={}",
        "lora.rank=4",
        "loss.distillation={teacher: x, weight: 2}",
    ],
)
def test_settings_of_losses_count_as_changes_of_the_result(override):
    assert changed_settings(load_config(), load_config(None, [override]))


def test_width_of_evaluation_is_no_change_of_the_result():
    assert not changed_settings(load_config(), load_config(None, ["dimensions=8"]))


def test_shortened_key_means_the_shallowest_setting():
    config = load_config(None, ["temperature=0.1", "dropout=0.2", "alpha=0.3"])
    assert (config.train.temperature, config.model.dropout, config.mix.alpha) == (0.1, 0.2, 0.3)
    assert config.loss.distillation is None
    assert config.model.lora is None
