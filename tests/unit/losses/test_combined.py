"""What is trained beside InfoNCE: both directions, vectors that are cut, and a teacher's scores."""

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
from hbt_ray.data.tokenizer import train_tokenizer
from hbt_ray.errors import ConfigError
from hbt_ray.losses.combined import distillation_loss, in_batch_loss, training_loss
from hbt_ray.models.encoder import init_encoder, open_teacher, save_encoder
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import build_batch
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer, trainer_of
from hbt_ray.training.run_dir import changed_settings
from hbt_ray.training.train_state import TrainState
from hbt_ray.utils.storage import StoragePath
from tests.helpers import tiny_corpus

pytestmark = pytest.mark.usefixtures("one_thread")

EYE = torch.eye(4)
SYMMETRIC = LossConfig(symmetric=True)
CUT = LossConfig(matryoshka=(3, 8))
TAUGHT = LossConfig(distillation=DistillationConfig(teacher="", weight=0.5, temperature=0.2))
ALL = LossConfig(symmetric=True, matryoshka=(3, 8), distillation=TAUGHT.distillation)
KINDS = {"symmetric": SYMMETRIC, "matryoshka": CUT, "distillation": TAUGHT, "all": ALL}


def reference(
    settings: LossConfig,
    queries: Tensor,
    passages: Tensor,
    query_keys: Sequence[int],
    passage_keys: Sequence[int],
    temperature: float,
    teacher: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return the loss of a whole batch, question by question and passage by passage."""
    pairs = len(queries)

    def alike(one: int, other: int) -> bool:
        """Whether a pair's passage, or another pair's hard negative, is known to be right for a pair."""
        same_question = other < pairs and query_keys[one] == query_keys[other]
        return one != other and (same_question or passage_keys[one] == passage_keys[other])

    def lost(scores: Tensor, right: int, left_out: Sequence[bool]) -> Tensor:
        kept = torch.stack([score for score, out in zip(scores, left_out, strict=True) if not out])
        return kept.exp().sum().log() - scores[right]

    of_widths = []
    for width in {*settings.matryoshka, queries.shape[1]}:
        q, p = queries, passages
        if width < queries.shape[1]:
            q, p = (v[:, :width] / v[:, :width].norm(dim=1, keepdim=True) for v in (q, p))
        scores = q @ p.T / temperature
        rows = [lost(scores[i], i, [alike(i, j) for j in range(len(p))]) for i in range(pairs)]
        loss = torch.stack(rows).mean()
        if settings.symmetric:
            columns = [lost(scores[:, i], i, [alike(i, j) for j in range(pairs)]) for i in range(pairs)]
            loss = (loss + torch.stack(columns).mean()) / 2
        if settings.distillation and teacher:
            t = settings.distillation.temperature
            told, found = (
                of / of.sum(1, keepdim=True) for of in ((teacher[0] @ teacher[1].T / t).exp(), (q @ p.T / t).exp())
            )
            loss = loss + settings.distillation.weight * (told * (told / found).log()).sum(1).mean()
        of_widths.append(loss)
    return torch.stack(of_widths).mean()


def loss(
    settings: LossConfig, queries: Tensor, passages: Tensor, teacher: tuple[Tensor, Tensor] | None = None
) -> float:
    keys = torch.arange(len(queries)), torch.arange(len(passages)) + 100
    return float(training_loss(settings, queries, passages, *keys, temperature=1.0, teacher_vectors=teacher))


# On paper


def test_passages_ask_for_their_questions_too():
    questions, passages = EYE[[0, 0]], EYE[[0, 1]]
    # Questions: 1 against e^0, and 0 against e^1. Passages: each as near to one question as to the other.
    forward = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert loss(LossConfig(), questions, passages) == pytest.approx(forward, rel=1e-6)
    assert loss(SYMMETRIC, questions, passages) == pytest.approx((forward + math.log(2)) / 2, rel=1e-6)


def test_hard_negatives_ask_for_nothing():
    forward = math.log(1 + 3 * math.exp(-1))  # 1 against the other passage and two negatives
    backward = math.log(1 + math.exp(-1))  # 1 against the other question
    assert loss(SYMMETRIC, EYE[:2], EYE) == pytest.approx((forward + backward) / 2, rel=1e-6)


def test_a_question_with_an_equal_passage_or_an_equal_question_is_no_negative_of_a_passage():
    arguments = EYE[:3], EYE[[0, 0, 2]]
    equal_passages = training_loss(SYMMETRIC, *arguments, torch.arange(3), torch.tensor([7, 7, 9]), temperature=1.0)
    forward = (math.log(1 + math.exp(-1)) + math.log(2) + math.log(1 + 2 * math.exp(-1))) / 3
    # Passage 0: 1 against question 2's e^0. Passage 1: 0 against question 2's e^0. Passage 2: 1 against two e^0.
    assert float(equal_passages) == pytest.approx(forward, rel=1e-6)  # as the mirror image has the same losses
    equal_questions = training_loss(SYMMETRIC, EYE[:2], EYE[:2], torch.tensor([5, 5]), torch.arange(2), temperature=1.0)
    assert float(equal_questions) == 0.0


def test_vectors_are_cut_and_brought_to_unit_length_again():
    vectors = torch.tensor([[0.6, 0.8], [-0.6, 0.8]])
    whole = math.log(1 + math.exp(0.28 - 1))  # the other's score is 0.64 - 0.36
    cut = math.log(1 + math.exp(-1 - 1))  # 1 and -1
    assert loss(LossConfig(), vectors, vectors) == pytest.approx(whole, rel=1e-6)
    for widths in ((1,), (1, 2), (2, 1)):  # the whole width counts, and once
        assert loss(LossConfig(matryoshka=widths), vectors, vectors) == pytest.approx((whole + cut) / 2, rel=1e-6)


def test_a_student_that_is_of_no_opinion_loses_what_the_teacher_knows():
    undecided, teacher = EYE[[2, 3]], (EYE[:2], EYE[:2])
    settings = LossConfig(distillation=DistillationConfig(teacher="", weight=3.0, temperature=0.5))
    p = 1 / (1 + math.exp(-2))  # the teacher's, of the passage with score 1 against that with score 0
    knows = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    # The student's scores are all 0: InfoNCE is that of guessing one of two.
    assert loss(settings, undecided, EYE[:2], teacher) == pytest.approx(math.log(2) + 3 * knows, rel=1e-5)


def test_a_student_with_the_teachers_scores_loses_nothing_to_it():
    taught = loss(TAUGHT, EYE[:2], EYE, (EYE[:2], EYE))
    assert taught == pytest.approx(loss(LossConfig(), EYE[:2], EYE), rel=1e-6)


# Against a plain implementation


def random_vectors(count: int, width: int, seed: int) -> Tensor:
    made = torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width)))
    return torch.nn.functional.normalize(made, dim=1)


@pytest.mark.parametrize("negatives", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_those_of_a_plain_implementation(kind, negatives):
    queries, passages = random_vectors(6, 12, 1), random_vectors(6 * (1 + negatives), 12, 2)
    teacher = random_vectors(6, 5, 3), random_vectors(len(passages), 5, 4)
    query_keys = [0, 1, 1, 3, 4, 5]
    passage_keys = [10, 11, 12, 10, 14, 15]
    if negatives:  # one of them is another pair's positive
        passage_keys += [20, 11, *range(30, 40)]
    queries.requires_grad_(), passages.requires_grad_()
    keys = torch.tensor(query_keys), torch.tensor(passage_keys)
    found = training_loss(KINDS[kind], queries, passages, *keys, temperature=0.1, teacher_vectors=teacher)
    expected = reference(KINDS[kind], queries, passages, query_keys, passage_keys, 0.1, teacher)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    plain = in_batch_loss(queries, passages, *keys, temperature=0.1)
    assert abs((found - plain).item()) > 1e-3
    for one, other in zip(*(torch.autograd.grad(of, (queries, passages)) for of in (found, expected)), strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-10)


def test_with_all_settings_off_loss_and_gradient_are_infonce_bit_for_bit():
    queries, passages = (random_vectors(n, 12, n).float().requires_grad_() for n in (5, 15))
    keys = torch.arange(5), torch.arange(15)
    both = [
        training_loss(LossConfig(), queries, passages, *keys, temperature=0.05),
        in_batch_loss(queries, passages, *keys, temperature=0.05),
    ]
    assert torch.equal(*both)
    for one, other in zip(*(torch.autograd.grad(of, (queries, passages)) for of in both), strict=True):
        assert torch.equal(one, other)


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
    return build_batch(tiny_corpus.make_plan(store, 8, strategy="x-x", hard_negatives=1, **mix).batch(step), store)


def gradient(of: Tensor, trainer: ContrastiveTrainer) -> Tensor:
    trainer.optimizer.zero_grad(set_to_none=True)
    of.backward()
    return torch.cat([p.grad.flatten() for p in trainer.encoder.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
def test_a_trainers_loss_and_gradient_are_those_of_a_plain_implementation_over_the_batch(folder, kind):
    trainer, one = make_trainer(folder, KINDS[kind]), batch(folder, 3)
    trainer.model.train()
    teacher = None
    if trainer.teacher is not None:
        with torch.no_grad():
            teacher = tuple(vectors.double() for vectors in trainer.teacher(one))
        assert teacher[0].shape == (8, 24)
    keys = one.query_keys.tolist(), one.passage_keys.tolist()
    vectors = (vectors.double() for vectors in trainer.dual(one))
    expected = reference(KINDS[kind], *vectors, *keys, trainer.train.temperature, teacher)
    found = trainer.loss(one)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    of_found, of_expected = gradient(found, trainer), gradient(expected, trainer)
    assert (of_found - of_expected).norm() < 1e-4 * of_expected.norm()


@pytest.mark.parametrize("attention", ["packed", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_caching_and_accumulation_give_the_gradient_of_the_whole_batches(folder, kind, attention):
    results = []
    for caching in ({}, {"gradient_caching": True, "chunk_tokens": 60}):
        trainer = make_trainer(folder, KINDS[kind], 0.0, attention, max_gradient_norm=1e6, **caching)
        result = trainer.step(0, [batch(folder, 3), batch(folder, 4)])
        moments = trainer.optimizer_state()
        results.append((result.loss, torch.cat([m.flatten() for name, m in moments.items() if "exp_avg/" in name])))
    (whole, of_whole), (cached, of_cached) = results
    assert cached == pytest.approx(whole, rel=1e-6)
    assert (of_cached - of_whole).norm() < 1e-5 * of_whole.norm()


def test_a_teacher_stays_as_it_is_and_is_neither_optimized_nor_saved(folder, tmp_path):
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


def test_a_taught_encoder_comes_nearer_to_its_teachers_scores(folder):
    heavy = LossConfig(distillation=DistillationConfig(teacher="", weight=100.0, temperature=0.1))
    trainer, one = make_trainer(folder, heavy, dropout=0.0, schedule="constant", steps=30), batch(folder, 0)
    assert trainer.teacher is not None

    def divergence() -> float:
        return float(distillation_loss(*trainer.dual(one), trainer.teacher(one), temperature=0.1).detach())

    before = divergence()
    for step in range(30):
        trainer.step(step, [one])
    assert divergence() < 0.2 * before


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_gives_nearly_the_same_loss(folder, kind):
    exact = make_trainer(folder, KINDS[kind], 0.0).step(0, [batch(folder, 0)]).loss
    rounded = make_trainer(folder, KINDS[kind], 0.0, precision="bf16").step(0, [batch(folder, 0)]).loss
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_validation_measures_the_loss_that_is_trained(folder, kind):
    trainer, one = make_trainer(folder, KINDS[kind], 0.0), batch(folder, 0)
    assert trainer.validation_loss([one]) == pytest.approx(float(trainer.loss(one).detach()), rel=1e-6)


# Mistakes


def test_a_width_above_the_encoders_is_told(folder):
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
def test_settings_that_cannot_be_are_told(settings, said):
    with pytest.raises(ConfigError, match=said):
        build_config({"loss": settings})


def test_a_teacher_with_another_vocabulary_is_told(folder, tmp_path):
    other = train_tokenizer(["something else entirely, of other words"] * 3, 300)
    save_encoder(init_encoder(tiny_corpus.MODEL, tiny_corpus.TEXT, other, seed=1), tmp_path / "other")
    encoder = tiny_corpus.make_encoder(folder / "encoder")
    said = r"the teacher .*other' has another vocabulary than the encoder, and cannot read its tokens; write a loss\."
    with pytest.raises(ConfigError, match=said) as told:
        open_teacher(str(tmp_path / "other"), encoder, tiny_corpus.MODEL)
    assert "\n" not in str(told.value)


def test_a_teacher_that_takes_fewer_tokens_is_told(folder, tmp_path):
    short = tiny_corpus.TEXT.model_copy(update={"max_query_tokens": 9, "max_passage_tokens": 10})
    save_encoder(init_encoder(tiny_corpus.MODEL, short, tiny_corpus.tokenizer(), seed=1), tmp_path / "short")
    with pytest.raises(ConfigError, match=r"short' takes 10 tokens, and texts have up to 24; write text\.max_query"):
        open_teacher(str(tmp_path / "short"), tiny_corpus.make_encoder(folder / "encoder"), tiny_corpus.MODEL)


# Settings


def test_a_run_is_trained_with_its_teacher(folder):
    config = build_config(
        {
            "text": tiny_corpus.TEXT.model_dump(),
            "train": {"global_batch_pairs": 8, "chunk_pairs": 2, "precision": "fp32"},
            "loss": {"distillation": {"teacher": str(folder / "teacher"), "weight": 0.5, "temperature": 0.2}},
        }
    )
    one = batch(folder, 0)
    expected = make_trainer(folder, TAUGHT).validation_loss([one])
    assert trainer_of(config, folder / "encoder", "cpu").validation_loss([one]) == expected


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
def test_each_counts_as_a_change_of_what_comes_out(override):
    assert changed_settings(load_config(), load_config(None, [override]))


def test_the_width_that_is_measured_changes_nothing_that_is_trained():
    assert not changed_settings(load_config(), load_config(None, ["dimensions=8"]))


def test_the_least_deep_of_several_settings_is_meant_by_a_shortened_key():
    config = load_config(None, ["temperature=0.1", "dropout=0.2", "alpha=0.3"])
    assert (config.train.temperature, config.model.dropout, config.mix.alpha) == (0.1, 0.2, 0.3)
    assert config.loss.distillation is None
    assert config.model.lora is None
