"""Which rank sees which sample when: a pure function of (seed, epoch, rank, world size).

Every sample is in an epoch exactly `repeats` times, over all ranks together. A step takes the next `global_batch_size`
samples of the epoch; the last one takes what is left. Ranks whose share of a step is smaller get fewer samples, never
repeated ones, and all ranks make the same number of micro steps.
"""

from dataclasses import dataclass

import numpy as np


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

    def order(self) -> np.ndarray:
        """(samples_per_epoch,) int64: `repeats` permutations of the split, one after the other."""
        random = np.random.default_rng([self.seed, self.epoch])
        return np.concatenate([random.permutation(self.num_samples) for _ in range(self.repeats)])

    def positions(self, step: int) -> np.ndarray:
        """Positions in `order()` that this rank trains on in `step`."""
        begin = step * self.global_batch_size
        end = min(begin + self.global_batch_size, self.samples_per_epoch)
        return np.arange(begin + self.rank, end, self.world_size)

    def micro_batch_sizes(self, step: int) -> list[int]:
        """Sizes of this rank's micro batches in `step`; the list is as long on every rank, sizes may be 0."""
        largest = len(self._with_rank(0).positions(step))  # rank 0 never has less than another
        num_micro_steps = -(-largest // self.micro_batch_size)
        count = len(self.positions(step))
        return [min(max(count - i * self.micro_batch_size, 0), self.micro_batch_size) for i in range(num_micro_steps)]

    def _with_rank(self, rank: int) -> "EpochPlan":
        return EpochPlan(**{**self.__dict__, "rank": rank})
