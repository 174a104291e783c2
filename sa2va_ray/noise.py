"""Lines of libraries that tell a user nothing, kept from the terminal. Ray's log files have them all the same.

What stands here was read line by line in the logs of jobs that went well. Everything else gets through.
"""

import logging
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Harmless:
    """A line, by a pattern that is searched in it, and `more`, a pattern of lines behind it that belong to it."""

    line: str
    more: str = r"(?!)"


HARMLESS = (
    # Ray 2.60, of actors that it makes itself. They are restarted only on a node that still has their arguments.
    Harmless(r"Actor with class name: '(PreemptionWatcher|MapWorker\(.*\))' .* has constructor arguments"),
    # Of every rank at every checkpoint, with all metrics: kilobytes. What they say stands in our own lines.
    Harmless(r"^Reporting training result \d+: TrainingReport\("),
    # The usual course. RESTARTING, RESIZING and ERRORED get through.
    Harmless(r"^\[State Transition\] \w+ -> (SCHEDULING|RUNNING|SHUTTING_DOWN|FINISHED)\.$"),
    Harmless(r"^Requesting resources: "),
    # It reckons with a whole CPU for each process; ours hold parts of one.
    Harmless(r"^WARNING: \d+ PYTHON worker processes have been started on node: "),
    Harmless(r"^Setting up process group for: env://"),
    # Plans of Ray Data, in its own words; our progress lines say how far it is.
    Harmless(r"^(Starting execution|Execution plan) of Dataset "),
    Harmless(r"^\S+ +Dataset \S+ execution finished in "),
    Harmless(r"^Progress bars disabled\. "),
    # Ray Train 2.60 calls a name of Ray Data's that goes in 2027, peft 0.21 one that transformers 6 will not have.
    Harmless(r"RayDeprecationWarning: `ExecutionOptions\.exclude_resources`", r"^ +self\.exclude_resources = "),
    Harmless(r"FutureWarning: `is_gradient_checkpointing` is deprecated", r"^ +warnings\.warn\($"),
    # DeepSpeed on a machine without a GPU: `use_gpu` of the plan says it.
    Harmless(r"Setting accelerator to CPU\. If you have GPU"),
    # Workers of a job that is stopped end by this signal; a stack of native frames is no help. Other signals are told.
    Harmless(r"\*\*\* SIGTERM received at time=", r"(^|logging\.cc:\d+: )(PC: @|    @) +0x"),
    # A run that is interrupted: its placement group goes with the job all the same.
    Harmless(
        r"^Failed to stop PlacementGroupCleaner gracefully\.", r"^(Traceback \(most recent|  |ray\.exceptions\.\w+: )"
    ),
    Harmless(r"^SIGTERM handler is not set because current thread is not the main thread\."),
    # TensorBoard 2.21, which draws all that we write without TensorFlow.
    Harmless(r"^TensorFlow installation not found - running with reduced feature set\."),
    Harmless(r"^NOTE: Using experimental fast data loading logic\.", r'^( +("--load_fast=false"|https://\S+/4784$)|$)'),
)

HELPERS = ("PlacementGroupCleaner", "TrainStateActor")
"""Actors of Ray Train that tidy up behind a driver that was killed. On a machine with several clusters they look into
another one, fail, and say so in forty lines; nothing of the job depends on them."""


class LineFilter:
    """Leaves out harmless lines of several sources, whose lines may come by turns."""

    def __init__(self) -> None:
        self._left_out: dict[Hashable, Harmless] = {}

    def kept(self, source: Hashable, lines: Iterable[str]) -> list[str]:
        """Those that a user is to see.

        Args:
            source: a process.
        """
        return [line for line in lines if not self._is_harmless(source, line)]

    def _is_harmless(self, source: Hashable, line: str) -> bool:
        before = self._left_out.get(source)
        if before and re.search(before.more, line):
            return True
        self._left_out.pop(source, None)
        found = next((each for each in HARMLESS if re.search(each.line, line)), None)
        if found:
            self._left_out[source] = found
        return found is not None


@dataclass
class RecordFilter(logging.Filter):
    """The same for the records of a logger of this process."""

    lines: LineFilter = field(default_factory=LineFilter)

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(self.lines.kept(record.name, [record.getMessage()]))


def quieten_libraries() -> None:
    """For libraries that speak while they are imported: to be called before that."""
    # transformers imports torchao where it is installed, which warns of kernels that this torch or GPU has no use for.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("DeepSpeed").addFilter(RecordFilter())


def quieten_console(name: str) -> None:
    """Leaves harmless records out of what a logger writes to the terminal. Its files get them."""
    for handler in logging.getLogger(name).handlers:
        writes_to_terminal = isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        if writes_to_terminal and not any(isinstance(each, RecordFilter) for each in handler.filters):
            handler.addFilter(RecordFilter())


def _filter_input() -> None:
    """Copies stdin to stdout but for what is harmless, line by line."""
    lines = LineFilter()
    with open(0, errors="surrogateescape") as read, open(1, "w", errors="surrogateescape", buffering=1) as written:
        for line in read:
            written.writelines(lines.kept("stdin", [line]))


if __name__ == "__main__":
    _filter_input()
