"""How much memory a run will take, before a GPU is taken: by part, per GPU and per host.

Model states follow the ZeRO paper (arXiv 1910.02054, sections 3.1 and 5) with mixed-precision AdamW: N GPUs hold a
gradient in the model's dtype and 12 bytes of optimizer state (weight and two moments in float32) for each trained value
between them; zero2 holds the weights N times, zero3 once. Activations: see activations.py.

The plan is of the largest micro batch that the data set can give, so a measured peak should be lower.
"""

import shutil
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sa2va_ray import storage
from sa2va_ray.models.build import PRECISIONS
from sa2va_ray.models.checkpoint import StoredCheckpoint
from sa2va_ray.models.parts import ENCODERS
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.strategy import (
    MAX_LIVE_PARAMETERS,
    REDUCE_BUCKET_SIZE,
    STRATEGIES,
    UNSHARDED,
    Strategy,
)
from sa2va_ray.train.plan import activations
from sa2va_ray.train.plan.activations import SampleSize
from sa2va_ray.train.plan.samples import configured_maximum, largest_of_data_set
from sa2va_ray.train.plan.sizes import ModelSizes, read_model_sizes
from sa2va_ray.train.plan.table import GIB, MemoryPlan, render_plan
from sa2va_ray.train.precision import choose_precision

_OPTIMIZER_BYTES = 12
_STEP_BYTES = 8  # per trained value in the update: the gradient in float32, and AdamW's denominator
_CHECKPOINT_BYTES = 12  # per trained value: weight and two moments in float32


def log_plan(config: TrainConfig, data_manifest: Mapping[str, Any] | None, gpu_bytes: int | None) -> MemoryPlan:
    """Logs the plan of a run for the largest sample of its data set, against the GPU that its workers get, and the
    local disk if checkpoints go there. Where the data set does not tell, the plan is for the longest sequence that the
    config lets through, and a warning says so.

    Args:
        data_manifest: of the prepared data set; None where there is none yet.
        gpu_bytes: memory of that GPU; None where it is not known, or none is used.

    Raises:
        UserError: the base is no model folder.
    """
    sizes = read_model_sizes(config.model, PRECISIONS[choose_precision(config)])
    size = largest_of_data_set(data_manifest, sizes.processor, config) if data_manifest else None
    plan = plan_memory(
        sizes,
        config,
        size=size,
        gpu_bytes=gpu_bytes,
        num_samples=data_manifest["counts"]["train"]["samples"] if data_manifest else None,
        free_bytes=_free_bytes(config.runs_uri),
    )
    configured = plan_memory(sizes, _changed(plan.config, strategy=plan.strategy)) if size else None
    LOGGER.info("plan of the run\n%s", render_plan(plan, configured))
    if config.micro_batch_size == "auto" and config.use_gpu and gpu_bytes is None:
        LOGGER.warning(
            "micro_batch_size=auto is 1 in this plan, since the memory of the GPUs is not known here. Where they are, "
            "it is what they have room for, and the peak is higher."
        )
    if data_manifest is None:
        LOGGER.warning(
            "There is no data set at data_uri yet: the plan is for the %d tokens of pipeline.max_length and %d tiles, "
            "the longest sample that the run would take, and may be far too large. It cannot tell the number of steps.",
            *(plan.size.num_tokens, plan.size.num_tiles),
        )
    elif size is None:
        LOGGER.warning(
            "The plan is for the %d tokens of pipeline.max_length and may be far too large: the data set was prepared "
            "by an older version, which did not list what its samples are like. Run jobs.prepare again, with the same "
            "source, settings and SA2VA_PSEUDONYM_KEY.",
            plan.size.num_tokens,
        )
    return plan


def log_measured_peak(plan: MemoryPlan, trained: StoredCheckpoint) -> None:
    """Logs the measured peak of a run on GPUs beside what its plan says of the micro batch and the workers that it
    ended with: these may be fewer than it began with. `trained`: its last checkpoint."""
    peak_gib = trained.state.metrics.get("memory/peak_gib")
    if not plan.config.use_gpu or peak_gib is None:
        return
    micro_batch_size = int(trained.settings["micro_batch_size"])
    ended_with = {"micro_batch_size": micro_batch_size, "num_workers": trained.state.num_workers}
    at_end = _changed(plan.config, strategy=plan.strategy, **ended_with)
    LOGGER.info(
        "tensors took %.1f GiB of a GPU, planned for micro batches of %d of the largest sample: %.1f GiB",
        *(peak_gib, micro_batch_size, plan_memory(plan.sizes, at_end, size=plan.size).allocated_bytes / GIB),
    )


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
    """Plan of a run. `auto` becomes what `choose_strategy` and `choose_micro_batch` find.

    Args:
        size: the largest sample of the data set; by default the longest that `pipeline.max_length` lets through.
        gpu_bytes: memory of one GPU.
        num_samples: of the training split, not repeated.
        free_bytes: where checkpoints go.
    """
    is_of_data_set, size = size is not None, size or configured_maximum(sizes.architecture, config)
    strategy = choose_strategy(sizes, config, gpu_bytes, size) if config.strategy == "auto" else config.strategy
    if config.micro_batch_size == "auto":
        config = _changed(config, micro_batch_size=choose_micro_batch(sizes, config, strategy, gpu_bytes, size))
    states, kept = _states(sizes, config, strategy), _kept(sizes, config, size)
    return MemoryPlan(
        sizes=sizes,
        config=config,
        strategy=strategy,
        size=size,
        gpu=states | kept,
        transients={  # the activations are gone when the weights are updated
            **_transients_of_a_pass(sizes, config, size),
            "update": max(0, _update_bytes(sizes, config, strategy) - sum(kept.values())),
        },
        host=_host(sizes, strategy),
        checkpoint_bytes=_CHECKPOINT_BYTES * sizes.num_trained,
        is_of_data_set=is_of_data_set,
        gpu_bytes=gpu_bytes,
        free_bytes=free_bytes,
        num_samples=num_samples,
    )


def choose_strategy(
    sizes: ModelSizes, config: TrainConfig, gpu_bytes: int | None, size: SampleSize | None = None
) -> Strategy:
    """The fastest strategy that fits into `gpu_bytes` with the margin, or the smallest where none does; zero3 where
    these are not known. With a micro batch of `auto`, the fastest that fits with one sample."""
    if gpu_bytes is None:
        return "zero3"
    if config.micro_batch_size == "auto":
        config = _changed(config, micro_batch_size=1)
    plans = [
        plan_memory(sizes, _changed(config, strategy=strategy), size=size, gpu_bytes=gpu_bytes)
        for strategy in STRATEGIES
    ]
    smallest = min(plans, key=lambda plan: plan.peak_bytes)
    return next((plan for plan in plans if plan.fits), smallest).strategy


def choose_micro_batch(
    sizes: ModelSizes, config: TrainConfig, strategy: Strategy, gpu_bytes: int | None, size: SampleSize | None = None
) -> int:
    """The most samples of a pass that fit into `gpu_bytes` with the margin, less what would make no pass fewer; 1 where
    not even two fit, or these are not known."""
    of_a_step = -(-config.global_batch_size // config.num_workers)
    if gpu_bytes is None:
        return 1

    def is_too_large(number: int) -> bool:
        of_number = _changed(config, strategy=strategy, micro_batch_size=number)
        return not plan_memory(sizes, of_number, size=size, gpu_bytes=gpu_bytes).fits

    most = 1 + bisect_left(range(2, of_a_step + 1), True, key=is_too_large)
    num_passes = -(-of_a_step // most)
    return -(-of_a_step // num_passes)


def _changed(config: TrainConfig, **changes: object) -> TrainConfig:
    return config.model_copy(update=changes)


def _states(sizes: ModelSizes, config: TrainConfig, strategy: Strategy) -> dict[str, int]:
    """Weights, gradients and optimizer state of one GPU, and what DeepSpeed moves them with."""
    b, trained, workers = sizes.dtype.itemsize, sizes.num_trained, config.num_workers
    share, frozen = -(-trained // workers), sizes.num_parameters - trained
    whole = {"zero2": frozen, "zero3": _num_unsharded(sizes), "zero3_offload": 0}[strategy]
    states = {
        "frozen weights": b * (whole + -(-(frozen - whole) // workers)),
        "trained weights": b * (trained if strategy == "zero2" else share),
        "gradients": b * share,
        "optimizer state": _OPTIMIZER_BYTES * share,
    }
    if strategy == "zero3_offload":
        states = dict.fromkeys(states, 0)
    # Two buckets: one fills while the other is reduced.
    states["reduce buckets"] = 2 * b * min(REDUCE_BUCKET_SIZE, trained)
    if strategy != "zero2":
        states["gathered layers"] = b * min(_gathered(sizes, strategy), sizes.num_parameters)
    return states


def _num_unsharded(sizes: ModelSizes) -> int:
    """Parameters that zero3 leaves whole."""
    trained = set(ENCODERS.values()) - set(sizes.trainable.encoders("frozen"))
    labels = {part.label for part in UNSHARDED if part not in trained}
    return sum(group.num_parameters for group in sizes.groups if group.name in labels)


def _gathered(sizes: ModelSizes, strategy: Strategy) -> int:
    """Parameters that ZeRO-3 holds whole at a time: those fetched ahead, and the largest module fetched in one
    piece."""
    whole = {part.label for part in sizes.trainable.encoders("frozen")} if strategy == "zero3_offload" else {}
    encoders = [group.num_parameters for group in sizes.groups if group.name in whole]
    return MAX_LIVE_PARAMETERS + max([sizes.largest_module, *encoders])


def _kept(sizes: ModelSizes, config: TrainConfig, size: SampleSize) -> dict[str, int]:
    """Activations that wait for the backward pass while the rest of the model runs."""
    batch, checkpointing = config.samples_of_a_pass, config.activation_checkpointing
    tokens, compiled = batch * size.num_tokens, config.compile_layers
    kept = {
        "activations: vision encoder": activations.vision_encoder_bytes(sizes, batch * size.num_tiles, checkpointing),
        "activations: projector": activations.projector_bytes(sizes, batch * size.num_tiles),
        "activations: language model": activations.language_model_bytes(sizes, tokens, checkpointing, compiled),
        "logits": activations.logits_bytes(sizes, batch * size.num_supervised_tokens),
    }
    return {name: num_bytes for name, num_bytes in kept.items() if num_bytes}


def _transients_of_a_pass(sizes: ModelSizes, config: TrainConfig, size: SampleSize) -> dict[str, int]:
    """Bytes that a pass needs for a moment, on top of the rest, by that moment; no two moments come together."""
    batch, checkpointing = config.samples_of_a_pass, config.activation_checkpointing
    layer = int(batch * size.num_tokens * activations.layer_bytes_per_token(sizes, config.compile_layers))
    head = activations.merged_head_bytes(sizes)
    return {
        "vision encoder runs": activations.vision_encoder_working_bytes(sizes, batch * size.num_tiles),
        "SAM 2 runs": head // 2
        + activations.image_encoder_bytes(sizes, batch, checkpointing)
        + activations.image_encoder_working_bytes(sizes, batch)
        + activations.mask_decoder_bytes(sizes, batch, batch * size.num_objects),
        "gradient of the head": head,
        "gradient of a layer": 2 * layer if checkpointing else layer,
    }


def _update_bytes(sizes: ModelSizes, config: TrainConfig, strategy: Strategy) -> int:
    """What the update works with, less the largest module that ZeRO-3 had gathered: what it fetches ahead stays."""
    if strategy == "zero3_offload":
        return 0
    released = sizes.dtype.itemsize * sizes.largest_module if strategy == "zero3" else 0
    return _STEP_BYTES * -(-sizes.num_trained // config.num_workers) - released


def _host(sizes: ModelSizes, strategy: Strategy) -> dict[str, int]:
    b, trained = sizes.dtype.itemsize, sizes.num_trained
    host = {"while the first worker builds the model": b * sizes.num_parameters}
    if strategy == "zero3_offload":
        # Gradients of the model's dtype, and once more in float32 for the update.
        state = (b + 4 + _OPTIMIZER_BYTES) * trained
        host |= {"offloaded weights": b * sizes.num_parameters, "offloaded gradients and optimizer state": state}
    return host
