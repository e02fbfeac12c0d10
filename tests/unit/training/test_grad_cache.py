import functools
import weakref
from pathlib import Path

import pytest
import torch

from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.training.grad_cache import backward_with_gradient_cache, count_saved_bytes
from tests.helpers.contrastive_training import MIXES, UNCLIPPED, batch, make_stores_and_encoder, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_stores_and_encoder(tmp_path_factory.mktemp("training"))


@pytest.mark.parametrize("attention", ["packed", "eager"])
@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_gradient_cache_gives_loss_and_gradient_of_the_whole_batch(folder, mix, attention):
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
    for cached_loss, cached_gradient in results[1:]:
        assert cached_loss == loss
        # Only the order of float32 sums differs.
        assert (cached_gradient - gradient_of_whole).norm() < 1e-5 * gradient_of_whole.norm()


@pytest.mark.parametrize("attention", ["packed", "eager"])
def test_kept_activations_give_the_same_bits_with_less_work(folder, attention):
    trainer = make_trainer(folder, 0.1, attention, chunk_pairs=2, gradient_caching=True)
    pairs = batch(folder, 3, strategy="x-y")
    micro_batches = trainer.dual.micro_batches(pairs)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in trainer.dual.parameters()}
    with count_saved_bytes(parameters) as saved:
        trainer.dual(pairs, micro_batches[:1])
    first = sum(saved.values())
    found = []
    for kept_bytes in (0, first - 1, first, 100 * first):
        encoded: list[object] = []
        hook = trainer.dual.register_forward_pre_hook(lambda _, inputs, encoded=encoded: encoded.append(inputs))
        trainer.dual.zero_grad()
        loss = backward_with_gradient_cache(
            trainer.dual, trainer.dual, pairs, functools.partial(trainer._loss_of, pairs), kept_bytes=kept_bytes
        )
        hook.remove()
        gradient = torch.cat([p.grad.flatten() for p in trainer.dual.parameters() if p.grad is not None])
        found.append((len(encoded), float(loss), gradient.numpy().tobytes()))
    count = len(micro_batches)
    assert [encodings for encodings, *_ in found] == [2 * count, 2 * count, 2 * count - 1, count]
    assert all(result[1:] == found[0][1:] for result in found)


def test_saved_bytes_are_those_of_distinct_tensors_without_parameters():
    weight, values = torch.ones(3, requires_grad=True), torch.ones(1000, 3, requires_grad=True)
    with count_saved_bytes({weight.untyped_storage().data_ptr()}) as saved:
        product = values * weight  # saves both
        (product.exp() + values[:10].sum()).square()  # save their results
    assert sorted(saved.values()) == [12_000, 12_000, 12_000]


class Held:
    """What an autograd node holds."""


def test_activations_that_do_not_fit_are_freed(folder):
    trainer = make_trainer(folder, 0.1, "packed", chunk_pairs=2, gradient_caching=True)
    pairs = batch(folder, 3, strategy="x-y")
    held: list[weakref.ref[Held]] = []

    def hold(_module, _inputs, output):
        if output.grad_fn is not None:
            output.grad_fn.metadata["held"] = mark = Held()
            held.append(weakref.ref(mark))

    transformer_of(trainer.encoder).encoder.layer[0].register_forward_hook(hold)
    backward_with_gradient_cache(
        trainer.dual, trainer.dual, pairs, functools.partial(trainer._loss_of, pairs), kept_bytes=1
    )
    assert len(held) == 1 + len(trainer.dual.micro_batches(pairs))  # the first one was encoded for keeping as well
    assert [mark() for mark in held] == [None] * len(held)
