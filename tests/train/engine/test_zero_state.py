"""Weights and moments go from any strategy and number of workers to any other, bit by bit, and training goes on."""

import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.deepspeed import build_engine
from sa2va_ray.train.engine.zero_state import gather_owned, restore
from sa2va_ray.train.step import MicroBatch, train_step
from tests.train import ranks

pytestmark = pytest.mark.soak

STRATEGIES = ("zero2", "zero3", "zero3_offload")
LR = 1e-3


@pytest.fixture(scope="module", params=["new_tokens", "all"])
def results(request, tmp_path_factory):
    """Two workers begin, three go on from what they left; with whole embeddings trained, too."""
    folder = tmp_path_factory.mktemp("zero")
    run = partial(_run, request.param)
    return {num_workers: ranks.run_ranks(run, num_workers, folder) for num_workers in (2, 3)}


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("pair", itertools.product(STRATEGIES, STRATEGIES), ids="-".join)
def test_what_is_restored_is_what_was_gathered(results, num_workers, pair):
    assert results[num_workers][f"same {pair[0]} {pair[1]}"]


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_training_goes_on_as_if_nothing_had_been(results, num_workers, strategy):
    """A third step, after two and a restart, bit by bit that of three in a row."""
    assert results[num_workers][f"third step {strategy}"]


def test_three_workers_take_up_the_state_of_two(results):
    assert all(results[3][f"from two {strategy}"] for strategy in STRATEGIES)


class _Training:
    """An engine, at the beginning or where `state` stands after two steps: the model takes its weights up before it is
    sharded, as in a run."""

    def __init__(self, strategy: str, embeddings: str, state: dict | None = None):
        workers = dist.get_world_size()
        settings = [f"num_workers={workers}", "global_batch_size=6", f"strategy={strategy}"]
        settings.append(f"model.trainable.embeddings={embeddings}")
        self.config = TrainConfig.load([*ranks.TINY, *settings])
        model, self.processor = ranks.build_tiny(self.config)
        if state:
            model.load_state_dict({name: tensors["weight"] for name, tensors in state.items()}, strict=False)
        self.engine = build_engine(model, self.config, "fp32")
        if state:
            restore(self.engine, lambda name, what: state[name][what], num_steps=2)

    def step(self, number: int) -> None:
        batch = ranks.tiny_batch(self.processor, seed=10 * number + dist.get_rank())
        train_step(self.engine, [MicroBatch(batch, seed=number)], batch, self.config.loss, LR)

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        """Whole, on all ranks."""
        of_ranks: list = [None] * dist.get_world_size()
        dist.all_gather_object(of_ranks, dict(gather_owned(self.engine)))
        return {name: tensors for of_rank in of_ranks for name, tensors in of_rank.items()}


def _same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        tensor.equal(other[name][what]) for name, tensors in one.items() for what, tensor in tensors.items()
    )


def _run(embeddings: str, folder: Path) -> dict[str, bool]:
    found, left_by_two = {}, folder / "two.pt"
    for strategy in STRATEGIES:
        handed_on = torch.load(left_by_two, weights_only=True) if dist.get_world_size() == 3 else None
        training = _Training(strategy, embeddings, handed_on)
        if handed_on:
            found[f"from two {strategy}"] = _same(training.state(), handed_on)
        else:
            training.step(0)
            training.step(1)
        state = training.state()
        for other in STRATEGIES:
            resumed = _Training(other, embeddings, state)
            found[f"same {strategy} {other}"] = _same(resumed.state(), state)
            if other == strategy:
                training.step(2)
                resumed.step(2)
                found[f"third step {strategy}"] = _same(training.state(), resumed.state())
            resumed.engine.destroy()
        training.engine.destroy()
        if dist.get_world_size() == 2 and dist.get_rank() == 0:
            torch.save(state, left_by_two)
    return found
