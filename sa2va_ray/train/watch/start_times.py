"""Where the time until the first step goes."""

from sa2va_ray.telemetry import Stopwatch


class StartTimes:
    """Seconds of the stages of a worker's start, in their order."""

    def __init__(self) -> None:
        self._watch = Stopwatch()
        self._stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Ends a stage."""
        self._stages[stage] = self._watch.lap_s()

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self._stages.items())
        return f"{sum(self._stages.values()):.1f} s ({stages})"
