"""Which rank sees which sample when: a pure function of (seed, epoch, rank, world size).

Every sample is in an epoch exactly `repeats` times, over all ranks together. A step takes the next `global_batch_size`
samples of the epoch; the last one takes what is left. Ranks whose share of a step is smaller get fewer samples, never
repeated ones, and all ranks make the same number of micro steps. Which samples a step takes does not depend on the
number of ranks, so that a run can go on at any step with another number.

Up to 16,384 samples are shuffled as a whole. More are shuffled in two stages, since each rank would else have to open a
file for each sample: runs of 256 neighbours (a file's worth) are put in random order, and then the samples of 64 such
runs at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

RUN_LENGTH = 256
RUNS_PER_WINDOW = 64


@dataclass(frozen=True)
class EpochPlan:
    """The order of one epoch, as one rank sees it.

    Attributes:
        num_samples: samples in the split.
        repeats: how often each is in an epoch.
        global_batch_size: samples of one optimizer step over all ranks and micro steps.
        micro_batch_size: most samples of one forward pass on one rank.
    """

    num_samples: int
    repeats: int
    seed: int
    epoch: int
    global_batch_size: int
    micro_batch_size: int
    rank: int
    world_size: int

    @property
    def samples_per_epoch(self) -> int:
        """Over all ranks."""
        return self.num_samples * self.repeats

    @property
    def num_steps(self) -> int:
        return -(-self.samples_per_epoch // self.global_batch_size)

    def step_size(self, step: int) -> int:
        """Samples of a step over all ranks: `global_batch_size`, but for the last step."""
        return min(self.global_batch_size, self.samples_per_epoch - step * self.global_batch_size)

    def positions(self, step: int) -> np.ndarray:
        """(R,) int64: places in the epoch, from 0 to `samples_per_epoch` - 1, that this rank trains on in `step`."""
        begin = step * self.global_batch_size
        return np.arange(begin + self.rank, begin + self.step_size(step), self.world_size)

    def samples(self, positions: np.ndarray) -> np.ndarray:
        """(R,) int64: the samples, from 0 to `num_samples` - 1, that stand at these places of the epoch."""
        repeats, places = np.divmod(positions, self.num_samples)
        samples = np.empty_like(positions)
        for repeat in np.unique(repeats):
            chosen = repeats == repeat
            samples[chosen] = self._permutation(int(repeat))[places[chosen]]
        return samples

    def micro_batch_sizes(self, step: int) -> list[int]:
        """Sizes of this rank's micro batches in `step`; the list is as long on every rank, sizes may be 0."""
        largest = len(replace(self, rank=0).positions(step))  # rank 0 never has less than another
        num_micro_steps = -(-largest // self.micro_batch_size)
        count = len(self.positions(step))
        return [min(max(count - i * self.micro_batch_size, 0), self.micro_batch_size) for i in range(num_micro_steps)]

    def _permutation(self, repeat: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, self.epoch, repeat])
        return np.concatenate([random.permutation(window) for window in self._windows(random)])

    def _windows(self, random: np.random.Generator) -> Iterator[np.ndarray]:
        """The samples in runs of neighbours, the runs in random order, `RUNS_PER_WINDOW` at a time."""
        starts = RUN_LENGTH * random.permutation(-(-self.num_samples // RUN_LENGTH))
        for begin in range(0, len(starts), RUNS_PER_WINDOW):
            window = np.add.outer(starts[begin : begin + RUNS_PER_WINDOW], np.arange(RUN_LENGTH)).flatten()
            yield window[window < self.num_samples]
