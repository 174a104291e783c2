"""What a run is doing, as its page and `run.json` say it."""

from enum import StrEnum


class RunState(StrEnum):
    WAITING = "waiting"
    TRAINING = "training"
    VALIDATING = "validating"
    ENDED = "ended"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def goes_on(self) -> bool:
        """Whether there is more to come."""
        return self in (RunState.WAITING, RunState.TRAINING, RunState.VALIDATING)
