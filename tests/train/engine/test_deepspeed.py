"""The strategies, activation checkpointing and compilation change where and when things are computed, not what."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from sa2va_ray.data.batch import Batch
from sa2va_ray.models.sa2va.processing_sa2va import normalize_tiles
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.deepspeed import build_engine
from sa2va_ray.train.engine.layers import recompute_activations
from sa2va_ray.train.engine.zero_state import trained_parameters
from sa2va_ray.train.plan.memory import plan_memory
from sa2va_ray.train.plan.sizes import read_model_sizes
from tests.train import ranks

pytestmark = pytest.mark.soak

NUM_WORKERS, NUM_STEPS, LR = 2, 3, 1e-3
TINY = [*ranks.TINY, "model.trainable.lora_dropout=0.1", "model.trainable.image_encoder=frozen"]
RUNS = {
    "zero2": ["strategy=zero2"],
    "zero3": ["strategy=zero3"],
    "zero3_offload": ["strategy=zero3_offload"],
    "compiled": ["strategy=zero3", "compile_layers=true", "activation_checkpointing=true"],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of `RUNS` gives: losses, gradient norms, weights, moments and bytes held."""
    return ranks.run_ranks(_run, NUM_WORKERS, tmp_path_factory.mktemp("engine"))


@pytest.mark.parametrize("name", ["zero2", "zero3_offload"])
def test_a_strategy_trains_as_zero3_does(results, name):
    """The same numbers, summed up in another order: the norm of all gradients, by which each is clipped, is another in
    its last bits, and so is all that follows."""
    run, reference = results[name], results["zero3"]
    assert run["losses"] == pytest.approx(reference["losses"], rel=1e-6)
    assert run["grad_norms"] == pytest.approx(reference["grad_norms"], rel=1e-6)
    assert_same_training(run, reference)


def test_frozen_encoders_compile_into_whole_graphs_between_the_hooks_of_zero3(results):
    run = results["compiled"]
    assert run["graphs"] >= 2
    assert run["graph_breaks"] == 0
    assert results["zero3"]["graphs"] == 0


def test_compiled_and_with_recomputed_activations_it_trains_the_same(results):
    run, reference = results["compiled"], results["zero3"]
    assert run["losses"] == pytest.approx(reference["losses"], rel=1e-5)  # a compiler may fuse, so round elsewhere
    assert_same_training(run, reference)


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3_offload"])
def test_a_worker_holds_the_weights_that_the_plan_says(results, name):
    config = TrainConfig.load([*TINY, *RUNS[name]])
    plan = plan_memory(read_model_sizes(config.model, torch.float32), config)
    planned = plan.gpu["frozen weights"] + plan.gpu["trained weights"]
    if name == "zero3_offload":
        planned = plan.host["offloaded weights"] / NUM_WORKERS
    # ZeRO-3 pads each tensor to a multiple of the workers.
    assert results[name]["held_bytes"] == pytest.approx(planned, rel=1e-3)


def test_all_trained_tensors_have_moved(results):
    model, _ = ranks.build_tiny(TrainConfig.load([*TINY, *RUNS["zero3"]]))
    before = dict(model.named_parameters())
    assert [name for name, weight in results["zero3"]["weights"].items() if weight.equal(before[name])] == []


def test_activation_checkpointing_keeps_less_and_gives_the_same_gradients():
    """In one process, where every tensor that is kept can be seen; dropout draws the same numbers again."""
    config = TrainConfig.load([*TINY, "model.trainable.vision_encoder=lora", "model.trainable.image_encoder=full"])
    model, processor = ranks.build_tiny(config)
    batch = ranks.tiny_batch(processor, seed=0)
    kept, gradients = _backward(model, batch)
    again = copy.deepcopy(model)
    recompute_activations(again)
    kept_less, gradients_again = _backward(again, batch)
    assert kept_less < 0.5 * kept
    assert gradients.keys() == gradients_again.keys()
    assert [name for name, gradient in gradients.items() if not gradient.equal(gradients_again[name])] == []


def assert_same_training(run: dict, reference: dict) -> None:
    """Moments are sums of gradients that are clipped to a norm of 1, and differ by the rounding of that. Adam divides
    by a gradient's size: where that is a hundred times its rounding, steps of the weights differ by a hundredth."""
    rounding = torch.finfo(torch.float32).eps
    moment, weight, square = (_flat(reference[key]) for key in ("exp_avg", "weights", "exp_avg_sq"))
    assert (_flat(run["exp_avg"]) - moment).abs().max() <= rounding
    clear = (square / (1 - 0.999**NUM_STEPS)).sqrt() > 100 * rounding
    difference = (_flat(run["weights"]) - weight)[clear]
    assert clear.sum() > 1000
    assert difference.square().mean().sqrt() <= 0.01 * NUM_STEPS * LR


def _flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def _backward(model, batch: Batch) -> tuple[int, dict[str, Tensor]]:
    """Bytes that the forward pass keeps, weights not counted, and the gradient of each trained tensor."""
    weights, sizes = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = _loss(model, batch)
    loss.backward()
    return sum(sizes.values()), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def _loss(model, batch: Batch) -> Tensor:
    targets = batch.labels[:, 1:]
    supervised = targets != -100
    logits_mask = F.pad(supervised, (0, 1))
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=normalize_tiles(batch.pixel_values),
        grounding_pixel_values=batch.grounding_pixel_values,
        logits_mask=logits_mask,
    )
    mask_loss = F.binary_cross_entropy_with_logits(output.mask_logits, torch.cat(batch.masks).float())
    return F.cross_entropy(output.logits.float(), targets[supervised]) + mask_loss


def _train(config: TrainConfig) -> dict:
    """`NUM_STEPS` steps of two micro batches each, other ones on each rank."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    (model, processor), rank = ranks.build_tiny(config), dist.get_rank()
    weights = {name for name, _ in model.named_parameters()}
    engine = build_engine(model, config, "fp32")
    torch.manual_seed(rank)  # here: DeepSpeed draws a number too
    held = [
        getattr(each, "ds_tensor", each) for name, each in model.state_dict(keep_vars=True).items() if name in weights
    ]
    losses, grad_norms = [], []
    for step in range(NUM_STEPS):
        for micro in range(2):
            engine.set_gradient_accumulation_boundary(micro == 1)
            loss = _loss(engine, ranks.tiny_batch(processor, seed=100 * rank + 10 * step + micro))
            engine.backward(loss)
            losses.append(loss.item())
        for group in engine.optimizer.param_groups:
            group["lr"] = LR
        engine.step()
        grad_norms.append(float(engine.get_global_grad_norm()))
    counters = torch._dynamo.utils.counters
    found = {
        "losses": losses,
        "grad_norms": grad_norms,
        "held_bytes": sum(tensor.numel() * tensor.element_size() for tensor in held),
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()) + sum(counters["unimplemented"].values()),
        **_state(engine),
    }
    engine.destroy()
    return found


def _state(engine) -> dict[str, dict[str, Tensor]]:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    parameters = trained_parameters(engine)
    return {
        "weights": {name: safe_get_full_fp32_param(p).clone() for name, p in parameters},
        **{
            moment: {name: safe_get_full_optimizer_state(p, moment).clone() for name, p in parameters}
            for moment in ("exp_avg", "exp_avg_sq")
        },
    }


def _run(_folder: Path) -> dict:
    # What the compiler makes of a graph is not the matter here, and takes it a minute.
    torch.compile = partial(torch.compile, backend="aot_eager")
    return {name: _train(TrainConfig.load([*TINY, "num_workers=2", *run])) for name, run in RUNS.items()}
