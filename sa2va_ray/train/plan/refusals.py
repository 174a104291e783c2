"""Why a run is not started as it is planned, and what helps."""

from collections.abc import Iterator

from sa2va_ray.train.engine.strategy import STRATEGIES
from sa2va_ray.train.plan.memory import plan_memory
from sa2va_ray.train.plan.table import GIB, MARGIN, MemoryPlan


def too_long(plan: MemoryPlan) -> str:
    """Why the plan's sample is longer than the run lets through; empty where it is not."""
    num_tokens, limit = plan.size.num_tokens, plan.config.pipeline.max_length
    if num_tokens <= limit:
        return ""
    can_have_fewer_tiles = plan.config.model.architecture and plan.sizes.architecture.max_dynamic_patch > 1
    fewer_tiles = ", lower model.architecture.max_dynamic_patch" if can_have_fewer_tiles else ""
    return (
        f"The longest sample of the data set can have {num_tokens} tokens, pipeline.max_length is {limit}. Set "
        f"pipeline.max_length={num_tokens}{fewer_tiles}, or prepare the data set with fewer objects in an image: a "
        "sequence is not cut, since that loses masks."
    )


def too_large(plan: MemoryPlan) -> str:
    """Why the run does not fit into its GPUs; empty where it does, or where these are not known."""
    if plan.fits:
        return ""
    assert plan.gpu_bytes is not None
    needs = ", ".join(f"{name} {_with(plan, strategy=name).peak_bytes / GIB:.1f}" for name in STRATEGIES)
    return (
        f"The run does not fit into its GPUs: with strategy={plan.strategy} and micro batches of "
        f"{plan.config.samples_of_a_pass} x {plan.size.num_tokens} tokens it needs {plan.peak_bytes / GIB:.1f} GiB of "
        f"each, and there are {(1 - MARGIN) * plan.gpu_bytes / GIB:.1f} GiB ({100 * (1 - MARGIN):.0f} % of "
        f"{plan.gpu_bytes / GIB:.1f}). GiB needed by strategy: {needs}. What helps: {'; '.join(_cures(plan))}; more or "
        "larger GPUs."
    )


def _cures(plan: MemoryPlan) -> Iterator[str]:
    if not plan.is_of_data_set:
        yield "to prepare the data set, so that the plan is for its own samples"
        yield f"a pipeline.max_length below {plan.size.num_tokens}"
    if fitting := [name for name in STRATEGIES if _with(plan, strategy=name).fits]:
        yield f"strategy={fitting[0]}"
    if not plan.config.activation_checkpointing:
        eased = _with(plan, activation_checkpointing=True)
        yield f"activation_checkpointing=true ({plan.strategy} then needs {eased.peak_bytes / GIB:.1f} GiB)"
    if plan.config.samples_of_a_pass > 1:
        single = _with(plan, micro_batch_size=1)
        yield f"micro_batch_size=1 ({plan.strategy} then needs {single.peak_bytes / GIB:.1f} GiB)"
    yield "a smaller model.trainable.lora_rank"


def _with(plan: MemoryPlan, **changes: object) -> MemoryPlan:
    """The plan of the same run with other settings."""
    changed = plan.config.model_copy(update={"strategy": plan.strategy, **changes})
    return plan_memory(plan.sizes, changed, size=plan.size, gpu_bytes=plan.gpu_bytes)
