"""How the training state is spread over the GPUs, by DeepSpeed's ZeRO stages (arXiv 1910.02054, section 5).

| strategy | frozen and trained weights | gradients, optimizer state |
| --- | --- | --- |
| zero2 | whole on every GPU | sharded over the GPUs |
| zero3 | sharded; gathered layer by layer. Frozen encoders whole | sharded over the GPUs |
| zero3_offload | sharded in host memory; gathered layer by layer | sharded in host memory, where AdamW runs |
"""

from typing import Any, Literal

from sa2va_ray.models.parts import GROUNDING_REST, IMAGE_ENCODER, VISION_ENCODER

Strategy = Literal["zero2", "zero3", "zero3_offload"]
STRATEGIES: tuple[Strategy, ...] = ("zero2", "zero3", "zero3_offload")  # from the fastest to the smallest

# DeepSpeed's defaults (5e8 and 1e9) take 1 GB for a bucket and 2 GB for gathered layers, which a 24 GB card has no room
# for. Of LoRA a bucket holds the gradients of several layers; what is gathered holds one layer of 7B more than twice.
REDUCE_BUCKET_SIZE = 50_000_000
"""Trained values whose gradients are reduced in one call."""
MAX_LIVE_PARAMETERS = 500_000_000
"""Values of gathered layers up to which ZeRO-3 fetches ahead and keeps what is soon used again."""
PREFETCH_BUCKET_SIZE = MAX_LIVE_PARAMETERS // 2
"""Values that ZeRO-3 fetches ahead at a time: all 233 M of the next layer of 7B while one runs. A GPU waits for what is
not fetched ahead."""
UNSHARDED = (VISION_ENCODER, IMAGE_ENCODER, GROUNDING_REST)
"""Parts that zero3 leaves whole on every GPU where they are frozen: 1 GB in bfloat16."""
PERSISTENCE_THRESHOLD = 10_000
"""Parameters smaller than this stay whole on every rank: gathering them costs more."""


def zero_config(strategy: str, use_gpu: bool, compiled: bool) -> dict[str, Any]:
    """The section `zero_optimization` of DeepSpeed's config, for a `Strategy`."""
    common = {"overlap_comm": use_gpu, "contiguous_gradients": True, "reduce_bucket_size": REDUCE_BUCKET_SIZE}
    if strategy == "zero2":
        return {**common, "stage": 2, "allgather_bucket_size": REDUCE_BUCKET_SIZE}
    sharded = {
        **common,
        "stage": 3,
        "stage3_param_persistence_threshold": PERSISTENCE_THRESHOLD,
        "stage3_max_live_parameters": MAX_LIVE_PARAMETERS,
        "stage3_max_reuse_distance": MAX_LIVE_PARAMETERS,
        "stage3_prefetch_bucket_size": PREFETCH_BUCKET_SIZE,
        # DeepSpeed's own matrix product asks each weight whose it is: torch 2.11 then compiles every layer anew, four
        # seconds each on a GPU. What a compiled layer keeps for its backward pass is torch's choice anyway.
        "memory_efficient_linear": not compiled,
    }
    if strategy == "zero3":
        return sharded
    host = {"device": "cpu", "pin_memory": use_gpu}
    return {**sharded, "offload_param": host, "offload_optimizer": host}
