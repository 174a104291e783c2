"""How much memory a run will take, before a GPU is taken: by part, per GPU and per host.

Model states follow the ZeRO paper (arXiv 1910.02054, sections 3.1 and 5) with mixed-precision AdamW: N GPUs hold a
gradient in the model's dtype and 12 bytes of optimizer state (weight and two moments in float32) for each trained value
between them; zero2 holds the weights N times, zero3 once. Activations: see activations.py.

The plan is of the largest micro batch that the config lets through, so a measured peak should be lower.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.models.build import PRECISIONS
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.deepspeed import choose_precision
from sa2va_ray.train.engine.strategy import MAX_LIVE_PARAMETERS, REDUCE_BUCKET_SIZE, STRATEGIES, Strategy
from sa2va_ray.train.plan import activations
from sa2va_ray.train.plan.activations import SampleSize
from sa2va_ray.train.plan.sizes import ModelSizes, read_model_sizes
from sa2va_ray.train.plan.table import GIB, MARGIN, MemoryPlan, render_plan

_OPTIMIZER_BYTES = 12
_STEP_BYTES = 8  # per trained value in the update: the gradient in float32, and AdamW's denominator
_CHECKPOINT_BYTES = 12  # per trained value: weight and two moments in float32


def log_plan(config: TrainConfig, num_samples: int, gpu_bytes: int | None) -> MemoryPlan:
    """Logs the plan of a run, against the GPU that its workers get, and the local disk if checkpoints go there.

    Args:
        num_samples: of the training split.
        gpu_bytes: memory of that GPU; None where it is not known, or none is used.

    Raises:
        UserError: the base is no model folder; `auto`, and nothing fits.
    """
    sizes = read_model_sizes(config.model, PRECISIONS[choose_precision(config)])
    plan = plan_memory(
        sizes,
        config,
        gpu_bytes=gpu_bytes,
        num_samples=num_samples,
        free_bytes=_free_bytes(config.runs_uri),
    )
    LOGGER.info("plan of the run\n%s", render_plan(plan))
    return plan


def log_measured_peak(plan: MemoryPlan, metrics: Mapping[str, float]) -> None:
    """Logs the measured peak of a run on GPUs beside its plan. `metrics`: those of its last step."""
    peak_gib = metrics.get("memory/peak_gib")
    if plan.config.use_gpu and peak_gib is not None:
        planned_gib = plan.allocated_bytes / GIB
        LOGGER.info("tensors took %.1f GiB of a GPU, planned for the largest sample: %.1f GiB", peak_gib, planned_gib)


def _free_bytes(uri: str) -> int | None:
    """Free bytes of the disk that `uri` is on; None where storage does not tell."""
    if not storage.is_local(uri):
        return None
    folder = Path(storage.resolve(uri)[1])
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def plan_memory(
    sizes: ModelSizes,
    config: TrainConfig,
    *,
    size: SampleSize | None = None,
    gpu_bytes: int | None = None,
    num_samples: int | None = None,
    free_bytes: int | None = None,
) -> MemoryPlan:
    """Plan of a run with `config.strategy`, or with the one that `choose_strategy` finds for `auto`.

    Args:
        size: the largest sample; by default the largest that `pipeline.max_length` lets through.
        gpu_bytes: memory of one GPU.
        num_samples: of the training split, not repeated.
        free_bytes: where checkpoints go.

    Raises:
        UserError: `auto`, and nothing fits.
    """
    size = size or largest_sample(sizes, config)
    strategy = choose_strategy(sizes, config, gpu_bytes, size) if config.strategy == "auto" else config.strategy
    return MemoryPlan(
        sizes=sizes,
        config=config,
        strategy=strategy,
        size=size,
        gpu=_states(sizes, config, strategy) | _kept(sizes, config, size),
        transients=_transients(sizes, config, strategy, size),
        host=_host(sizes, config, strategy),
        checkpoint_bytes=_CHECKPOINT_BYTES * sizes.num_trained,
        gpu_bytes=gpu_bytes,
        free_bytes=free_bytes,
        num_samples=num_samples,
    )


def choose_strategy(
    sizes: ModelSizes, config: TrainConfig, gpu_bytes: int | None, size: SampleSize | None = None
) -> Strategy:
    """The fastest strategy that fits into `gpu_bytes` with the margin; zero3 where these are not known.

    Raises:
        UserError: none fits.
    """
    if gpu_bytes is None:
        return "zero3"
    plans = [_plan_as(sizes, config, strategy, gpu_bytes, size) for strategy in STRATEGIES]
    for plan in plans:
        if plan.fits:
            return plan.strategy
    raise UserError(_nothing_fits(plans))


def largest_sample(sizes: ModelSizes, config: TrainConfig) -> SampleSize:
    """The longest sequence, with as many tiles as it has room for."""
    num_tokens, most = config.pipeline.max_length, sizes.architecture.max_dynamic_patch
    most += 1 if sizes.architecture.use_thumbnail and most > 1 else 0
    return SampleSize(num_tokens, num_tiles=max(1, min(most, num_tokens // sizes.architecture.tokens_per_tile)))


def _states(sizes: ModelSizes, config: TrainConfig, strategy: Strategy) -> dict[str, int]:
    """Weights, gradients and optimizer state of one GPU, and what DeepSpeed moves them with."""
    b, trained, workers = sizes.dtype.itemsize, sizes.num_trained, config.num_workers
    whole = sizes.num_parameters if strategy == "zero2" else -(-sizes.num_parameters // workers)
    share = -(-trained // workers)
    states = {
        "frozen weights": b * round(whole * (1 - trained / sizes.num_parameters)),
        "trained weights": b * round(whole * trained / sizes.num_parameters),
        "gradients": b * share,
        "optimizer state": _OPTIMIZER_BYTES * share,
    }
    if strategy == "zero3_offload":
        states = dict.fromkeys(states, 0)
    # Two buckets: one fills while the other is reduced.
    states["reduce buckets"] = 2 * b * min(REDUCE_BUCKET_SIZE, trained)
    if strategy != "zero2":
        states["gathered layers"] = b * min(_gathered(sizes), sizes.num_parameters)
    return states


def _gathered(sizes: ModelSizes) -> int:
    """Parameters that ZeRO-3 holds whole at a time: those fetched ahead, and the largest module fetched in one
    piece."""
    whole = {part.label for part in sizes.trainable.encoders("frozen")}
    encoders = [group.num_parameters for group in sizes.groups if group.name in whole]
    return MAX_LIVE_PARAMETERS + max([sizes.largest_module, *encoders])


def _kept(sizes: ModelSizes, config: TrainConfig, size: SampleSize) -> dict[str, int]:
    """Activations that wait for the backward pass while the rest of the model runs."""
    batch, checkpointing = config.micro_batch_size, config.activation_checkpointing
    kept = {
        "activations: vision encoder": activations.vision_encoder_bytes(sizes, batch * size.num_tiles, checkpointing),
        "activations: projector": activations.projector_bytes(sizes, batch * size.num_tiles),
        "activations: language model": activations.language_model_bytes(sizes, batch * size.num_tokens, checkpointing),
        "logits": activations.logits_bytes(sizes, batch * size.num_supervised_tokens),
    }
    return {name: num_bytes for name, num_bytes in kept.items() if num_bytes}


def _transients(sizes: ModelSizes, config: TrainConfig, strategy: Strategy, size: SampleSize) -> dict[str, int]:
    """Bytes that a step needs for a moment, on top of the rest, by that moment; no two moments come together."""
    batch, checkpointing = config.micro_batch_size, config.activation_checkpointing
    layer = int(batch * size.num_tokens * activations.layer_bytes_per_token(sizes))
    step = 0 if strategy == "zero3_offload" else _STEP_BYTES * -(-sizes.num_trained // config.num_workers)
    head = activations.merged_head_bytes(sizes)
    return {
        "vision encoder runs": activations.vision_encoder_working_bytes(sizes, batch * size.num_tiles),
        "SAM 2 runs": head // 2
        + activations.image_encoder_bytes(sizes, batch, checkpointing)
        + activations.image_encoder_working_bytes(sizes, batch)
        + activations.mask_decoder_bytes(sizes, batch, batch * size.num_objects),
        "gradient of the head": head,
        "gradient of a layer": 2 * layer if checkpointing else layer,
        "update": step,
    }


def _host(sizes: ModelSizes, config: TrainConfig, strategy: Strategy) -> dict[str, int]:
    b, trained, workers = sizes.dtype.itemsize, sizes.num_trained, config.num_workers
    host = {"while each worker builds the model": workers * b * sizes.num_parameters}
    if strategy == "zero3_offload":
        # Gradients of the model's dtype, and once more in float32 for the update.
        state = (b + 4 + _OPTIMIZER_BYTES) * trained
        host |= {"offloaded weights": b * sizes.num_parameters, "offloaded gradients and optimizer state": state}
    return host


def _plan_as(
    sizes: ModelSizes, config: TrainConfig, strategy: Strategy, gpu_bytes: int, size: SampleSize | None, **changes
) -> MemoryPlan:
    changed = config.model_copy(update={"strategy": strategy, **changes})
    return plan_memory(sizes, changed, size=size, gpu_bytes=gpu_bytes)


def _nothing_fits(plans: list[MemoryPlan]) -> str:
    smallest = plans[-1]
    sizes, config, gpu_bytes = smallest.sizes, smallest.config, smallest.gpu_bytes
    assert gpu_bytes is not None
    needs = ", ".join(f"{plan.strategy} {plan.peak_bytes / GIB:.1f}" for plan in plans)
    cures = []
    if not config.activation_checkpointing:
        eased = _plan_as(sizes, config, "zero3", gpu_bytes, smallest.size, activation_checkpointing=True)
        cures.append(f"activation_checkpointing=true (zero3 then takes {eased.peak_bytes / GIB:.1f} GiB)")
    if config.micro_batch_size > 1:
        cures.append("micro_batch_size=1")
    cures += [f"a pipeline.max_length below {smallest.size.num_tokens}", "a smaller model.trainable.lora_rank"]
    return (
        f"No strategy fits into {(1 - MARGIN) * gpu_bytes / GIB:.1f} GiB ({100 * (1 - MARGIN):.0f} % of a GPU's "
        f"{gpu_bytes / GIB:.1f} GiB); GiB needed: {needs}. What helps: {'; '.join(cures)}; more or larger GPUs."
    )
