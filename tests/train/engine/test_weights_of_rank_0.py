"""Only rank 0 reads the weights, and all train with them."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from sa2va_ray.models.build import PRECISIONS, build_model, build_unfilled, weights_sha256
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.deepspeed import build_engine
from tests.train import ranks

pytestmark = pytest.mark.cluster  # a group of processes of torch.distributed

STRATEGIES = ("zero2", "zero3")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """By strategy, the SHA-256 of all weights and stored tables on each rank, and on a model built alone."""
    return ranks.run_ranks(run, 2, tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_ranks_have_the_weights_that_rank_0_has_read(results, strategy):
    first, second, alone = results[strategy]
    assert first == second == alone


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_rank_1_had_before_were_others(results, strategy):
    assert results["unfilled"] != results[strategy][0]


def build(config: TrainConfig, rank: int):
    model, processor = build_model(config.model, PRECISIONS[config.precision])
    if rank:
        model = build_unfilled(config.model, PRECISIONS[config.precision])
        for tensor in model.state_dict().values():
            tensor.fill_(3.0)  # nobody's values
    torch.manual_seed(0)
    make_trainable(model, processor, config.model.trainable)
    return model


def whole(model) -> dict[str, torch.Tensor]:
    """All that is stored of a model, gathered where ZeRO-3 has spread it."""
    gathered = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if hasattr(tensor, "ds_id"):
            tensor.all_gather([tensor])
        gathered[name] = tensor.detach().clone()
    return gathered


def run(_folder: Path) -> dict:
    rank = dist.get_rank()
    results: dict = {}
    for strategy in STRATEGIES:
        config = TrainConfig.load([*ranks.TINY, f"strategy={strategy}", "use_gpu=false", "global_batch_size=2"])
        alone = weights_sha256(whole(build(config, rank=0)))
        if rank:
            results["unfilled"] = weights_sha256(whole(build(config, rank=1)))
        engine = build_engine(build(config, rank), config, "fp32")
        hashes: list = [None, None]
        dist.all_gather_object(hashes, weights_sha256(whole(engine.module)))
        results[strategy] = [*hashes, alone]
    unfilled: list = [None, None]
    dist.all_gather_object(unfilled, results.get("unfilled"))
    return {**results, "unfilled": unfilled[1]}
