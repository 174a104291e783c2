"""A step gives the same however its samples are cut over ranks: none hangs, none counts twice, none is lost."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from sa2va_ray.data.batch import collate
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.deepspeed import build_engine
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.step import MicroBatch, train_step
from tests.train import ranks

SEGMENTED, TWO_OBJECTS, NO_MASK, LONG = (
    "Sure, [SEG].",
    "[SEG] and [SEG].",
    "There is none.",
    "It is [SEG]. " + "So. " * 20,
)
CASES = {
    "plain": [SEGMENTED] * 6,
    "unequal lengths and numbers of objects": [LONG, SEGMENTED, TWO_OBJECTS, LONG, SEGMENTED, TWO_OBJECTS],
    "a rank without masks": [SEGMENTED, NO_MASK, NO_MASK, SEGMENTED, NO_MASK, NO_MASK],
    "no masks at all": [NO_MASK] * 6,
    "text only, beside images": [None, SEGMENTED, None, None, SEGMENTED, SEGMENTED],
    "text only": [None] * 6,
    "short: one sample for all": [SEGMENTED],
    "short: an uneven rest": [SEGMENTED, LONG, NO_MASK, SEGMENTED],
}
ONE, TWO = (pytest.param(n, marks=pytest.mark.cluster) for n in (1, 2))  # a group of processes of torch.distributed
THREE = pytest.param(3, marks=pytest.mark.soak)  # on two cores they take as long as one and two together
POISON = 6  # seed of the sample whose loss is not finite


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """By the number of workers. One worker and two run beside each other, three when they are asked for."""
    with ThreadPoolExecutor() as pool:
        started = cache(lambda n: pool.submit(ranks.run_ranks, _run, n, tmp_path_factory.mktemp(f"ranks{n}")))
        for num_workers in (1, 2):
            started(num_workers)
        yield lambda num_workers: started(num_workers).result()


@pytest.mark.parametrize("num_workers", [TWO, THREE])
@pytest.mark.parametrize("case", CASES)
def test_a_step_does_not_depend_on_how_it_was_cut(results, case, num_workers):
    """Float32 sums of a few hundred terms in another order: relative differences of some 1e-6."""
    found, expected = results(num_workers)[case], results(1)[case]
    assert found["num_samples"] == expected["num_samples"] == len(CASES[case])
    assert found["num_tokens"] == expected["num_tokens"]
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5, abs=1e-7)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


@pytest.mark.cluster
def test_cases_with_masks_have_mask_losses(results):
    losses = {case: results(1)[case]["losses"] for case in CASES}
    without = {"no masks at all", "text only"}
    assert {case for case in CASES if losses[case]["loss_mask"] == 0} == without
    assert all(losses[case]["loss_language"] > 0 for case in CASES)


@pytest.mark.parametrize("num_workers", [ONE, TWO, THREE])
def test_a_loss_that_is_not_finite_costs_its_micro_step_and_names_its_sample(results, num_workers):
    found = results(num_workers)["poisoned"]
    assert found["skipped_ids"] == [f"sample-{POISON}"]
    assert found["num_skipped"] == num_workers  # the micro step of all ranks
    assert found["num_samples"] == 6 - num_workers
    assert found["weights_are_finite"]


@pytest.mark.parametrize("num_workers", [ONE, TWO, THREE])
def test_weights_that_are_lost_end_the_run_on_all_ranks(results, num_workers):
    assert "weights are lost" in results(num_workers)["lost"]


@pytest.mark.cluster
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path, strategy):
    """In the precision of a GPU, with a loss that is finite: DeepSpeed tells by the gradient's norm alone."""
    run = {"zero2": _run_broken_zero2, "zero3": _run_broken_zero3}[strategy]
    assert "gradient is not finite" in ranks.run_ranks(run, 1, tmp_path)


def _run_broken_zero2(_folder: Path) -> str:
    return _run_broken("zero2")


def _run_broken_zero3(_folder: Path) -> str:
    return _run_broken("zero3")


def _run_broken(strategy: str) -> str:
    config = TrainConfig.load([*ranks.TINY, "num_workers=1", "global_batch_size=6", f"strategy={strategy}"])
    model, processor = ranks.build_tiny(config)
    trained = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    trained.register_hook(lambda gradient: gradient * float("inf"))
    engine = build_engine(model.bfloat16(), config, "bf16")
    try:
        _step(engine, processor, config, [_row(processor, 0, SEGMENTED)])
    except RunStoppedError as error:
        return str(error)
    return "the run went on"


def _row(processor, seed: int, answer: str | None) -> dict:
    if answer is None:
        return ranks.tiny_row(processor, seed, "A tube.", with_image=False)
    return ranks.tiny_row(processor, seed, answer)


def _step(engine, processor, config: TrainConfig, rows: list[dict]):
    """One step over `rows`, of which this rank takes the share that an epoch of them would give it."""
    rank, num_workers = dist.get_rank(), dist.get_world_size()
    plan = EpochPlan(
        num_samples=len(rows),
        repeats=1,
        seed=0,
        epoch=0,
        global_batch_size=6,
        micro_batch_size=1,
        rank=rank,
        world_size=num_workers,
    )
    mine, micro_batches = iter(plan.positions(0)), []
    for size in plan.micro_batch_sizes(0):
        places = [int(next(mine)) for _ in range(size)]
        batch = collate([rows[place] for place in places]) if places else None
        # The points that are drawn in a mask depend on the seed: one for the sample, whatever rank it is on.
        micro_batches.append(MicroBatch(batch, seed=places[0] if places else 0))
    filler = ranks.tiny_batch(processor, seed=99)
    return train_step(engine, micro_batches, filler, config.loss, learning_rate=0.0)


def _poison(module, arguments, keywords, output):
    """Makes the mask of the sample with `POISON`'s pixels NaN."""
    if float(keywords["grounding_pixel_values"].float().mean()) == _poison.mean:
        return output._replace(mask_logits=output.mask_logits * float("nan"))
    return output


def _run(_folder: Path) -> dict:
    config = TrainConfig.load([*ranks.TINY, f"num_workers={dist.get_world_size()}", "global_batch_size=6"])
    model, processor = ranks.build_tiny(config)
    engine = build_engine(model, config, "fp32")
    found: dict = {}
    for case, answers in CASES.items():
        result = _step(engine, processor, config, [_row(processor, i, answer) for i, answer in enumerate(answers)])
        found[case] = vars(result)
    rows = [_row(processor, POISON + i, SEGMENTED) for i in range(6)]
    _poison.mean = float(torch.from_numpy(rows[0]["grounding_pixel_values"]).float().mean())
    hook = engine.module.register_forward_hook(_poison, with_kwargs=True)
    found["poisoned"] = vars(_step(engine, processor, config, rows))
    hook.remove()
    found["poisoned"]["weights_are_finite"] = all(
        bool(getattr(p, "ds_tensor", p).isfinite().all()) for p in engine.module.parameters()
    )
    with torch.no_grad():
        for parameter in engine.module.parameters():
            getattr(parameter, "ds_tensor", parameter).fill_(float("nan"))
    try:
        _step(engine, processor, config, rows)
    except RunStoppedError as error:
        found["lost"] = str(error)
    return found
