"""The plan of a run's memory, and the text that people read of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.strategy import Strategy
from sa2va_ray.train.plan.activations import SampleSize
from sa2va_ray.train.plan.sizes import ModelSizes

GIB = 2**30
MARGIN = 0.08
"""Share of a GPU that a plan leaves free: the allocator loses some of it in gaps."""
_CONTEXT_BYTES = GIB  # CUDA's and cuBLAS's own, and the buffers of NCCL


@dataclass(frozen=True)
class MemoryPlan:
    """Attributes:
    gpu: bytes that are held together at the peak of a step, by part.
    transients: bytes on top of these, by the moment of a step that needs them, less what is no longer held then; the
        largest counts.
    host: bytes of one host that all workers share, by part: while the model is built, and then.
    checkpoint_bytes: of one checkpoint.
    is_of_data_set: whether `size` is of the largest sample of the data set, or else what the config lets through.
    """

    sizes: ModelSizes
    config: TrainConfig
    strategy: Strategy
    size: SampleSize
    gpu: Mapping[str, int]
    transients: Mapping[str, int]
    host: Mapping[str, int]
    checkpoint_bytes: int
    is_of_data_set: bool = False
    gpu_bytes: int | None = None
    free_bytes: int | None = None
    num_samples: int | None = None

    @property
    def allocated_bytes(self) -> int:
        """Peak of what torch allocates on a GPU: compare with `torch.cuda.max_memory_allocated()`."""
        return sum(self.gpu.values()) + max(self.transients.values())

    @property
    def peak_bytes(self) -> int:
        """Peak of a GPU as `nvidia-smi` shows it, gaps not counted."""
        return self.allocated_bytes + (_CONTEXT_BYTES if self.config.use_gpu else 0)

    @property
    def fits(self) -> bool:
        """Whether the margin is left free; true where the GPU is not known."""
        return self.gpu_bytes is None or self.peak_bytes <= (1 - MARGIN) * self.gpu_bytes

    @property
    def num_steps(self) -> int | None:
        """Steps of the whole run."""
        if self.num_samples is None:
            return None
        return self.config.num_epochs * -(-self.num_samples * self.config.repeats // self.config.global_batch_size)

    @property
    def num_kept(self) -> int:
        """Checkpoints that are there at the end."""
        return self._saved_at_most(self.config.keep_checkpoints + self.config.keep_best)

    @property
    def most_at_once(self) -> int:
        """Checkpoints: a new one is written while the oldest is still there."""
        return self._saved_at_most(self.config.keep_checkpoints + self.config.keep_best + 1)

    def _saved_at_most(self, number: int) -> int:
        """That number of checkpoints, or all that the run saves: every few steps, and at its end."""
        return number if self.num_steps is None else min(number, -(-self.num_steps // self.config.save_every_steps))


def render_plan(plan: MemoryPlan, configured: MemoryPlan | None = None) -> str:
    """Parameters, memory of a GPU and of the host, steps, checkpoints: one table each, a line per part.

    Args:
        configured: the plan for the longest sequence that the config lets through, whose peak is to stand beside.
    """
    parts = _parameters(plan), _gpu(plan, configured), _host(plan), _steps(plan), _checkpoints(plan)
    return "\n".join(chain(*parts))


def _parameters(plan: MemoryPlan) -> Iterator[str]:
    sizes = plan.sizes
    yield f"{'parameters in ' + str(sizes.dtype).removeprefix('torch.'):<36}{'all':>16}{'trained':>16}"
    for group in sizes.groups:
        yield f"  {group.name:<34}{group.num_parameters:>16,}{group.num_trained:>16,}"
    share = 100 * sizes.num_trained / sizes.num_parameters
    yield f"  {'sum':<34}{sizes.num_parameters:>16,}{sizes.num_trained:>16,} ({share:.2f} %)"


def _gpu(plan: MemoryPlan, configured: MemoryPlan | None) -> Iterator[str]:
    size = plan.size
    what = "largest sample of this data set" if plan.is_of_data_set else "longest sequence that the config lets through"
    yield (
        f"memory of each of {plan.config.num_workers} workers, {plan.strategy}, activation checkpointing "
        f"{'on' if plan.config.activation_checkpointing else 'off'}, for the {what}: "
        f"{plan.config.samples_of_a_pass} sample(s) of {size.num_tokens} tokens, {size.num_tiles} tile(s), "
        f"{size.num_objects} object(s)"
    )
    yield from (_line(name, num_bytes) for name, num_bytes in plan.gpu.items() if num_bytes)
    moment = max(plan.transients, key=lambda name: plan.transients[name])
    yield _line(f"for a moment: {moment}", plan.transients[moment])
    if plan.config.use_gpu:
        yield _line("CUDA and NCCL", plan.peak_bytes - plan.allocated_bytes)
    yield _line("peak", plan.peak_bytes) + _against(plan)
    if configured:
        longest = f"peak with {configured.size.num_tokens} tokens (pipeline.max_length)"
        yield _line(longest, configured.peak_bytes)


def _against(plan: MemoryPlan) -> str:
    if plan.gpu_bytes is None:
        return ""
    verdict = "fits" if plan.fits else f"does not fit: {100 * MARGIN:.0f} % should stay free"
    return f" of {plan.gpu_bytes / GIB:.2f} GiB: {verdict}"


def _host(plan: MemoryPlan) -> Iterator[str]:
    yield "memory of the host, if it has all workers"
    yield from (_line(name, num_bytes) for name, num_bytes in plan.host.items())


def _steps(plan: MemoryPlan) -> Iterator[str]:
    config = plan.config
    yield (
        f"batch: {config.num_workers} workers x {config.samples_of_a_pass} micro batch x "
        f"{config.gradient_accumulation_steps()} accumulated = {config.global_batch_size}"
    )
    if plan.num_samples is not None:
        yield (
            f"steps: {plan.num_samples:,} samples x {config.repeats} repeats x {config.num_epochs} epochs = "
            f"{plan.num_steps:,} steps"
        )


def _checkpoints(plan: MemoryPlan) -> Iterator[str]:
    kept, each = plan.num_kept, plan.checkpoint_bytes / GIB
    line = f"checkpoints: {kept} kept x {each:.2f} GiB = {kept * each:.2f} GiB"
    if plan.free_bytes is not None:
        enough = plan.most_at_once * plan.checkpoint_bytes <= plan.free_bytes
        line += f" of {plan.free_bytes / GIB:.2f} GiB free: {'enough' if enough else 'NOT ENOUGH'}"
    yield line


def _line(name: str, num_bytes: int) -> str:
    return f"  {name:<44}{num_bytes / GIB:>9.2f} GiB"
