"""Learning rate as a function of the step."""

import math

from sa2va_ray.train.config import OptimConfig


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """The learning rate of step number `step` (from 0): linear warm-up to `config.lr`, then a cosine that ends at 0."""
    warmup_steps = int(config.warmup_ratio * num_steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
