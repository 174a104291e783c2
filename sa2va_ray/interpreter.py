"""How a process uses Python's interpreter: how its threads share it, and what a start leaves undone."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH_INTERVAL_S = 0.0001


def switch_threads_soon() -> None:
    """Has a thread that waits for the interpreter's lock get it after 0.1 ms, and not after 5, which is Python's
    default. A thread that starts a model's kernels, or runs DeepSpeed's hook of each gradient, gives the lock up and
    takes it back hundreds of times; beside a thread that makes batches or decodes images in Python it would wait as
    often: a training step of 88 ms took 1,950 beside a loop in Python, and 730 with 0.1 ms."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


@contextmanager
def importing(without: str | None = None) -> Iterator[None]:
    """Python's collector does not run while libraries are imported. It looks through all objects again whenever there
    are a quarter more of them, and of what torch and transformers define none goes: a quarter of the time that they
    take to import. Nor does it look at them later on, which takes 0.3 s each time.

    Args:
        without: a library that others use where it is installed, which is not to be imported for that.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    hides = without is not None and without not in sys.modules
    if hides:
        sys.modules[without] = None  # type: ignore[index, assignment]  # so an import of it fails
    try:
        yield
    finally:
        if hides:
            del sys.modules[without]  # type: ignore[arg-type]
        gc.freeze()
        if was_enabled:
            gc.enable()
