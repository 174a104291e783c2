"""How a process uses Python's interpreter: how soon its threads take turns, and imports that take less time."""

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
    """For imports of large libraries: Python's garbage collector does not run meanwhile, and never looks at what they
    made. It would look through all objects whenever there are a quarter more of them, a quarter of the time that torch
    and transformers take to import, and find nothing to free; and again later on, 0.3 s each time.

    Args:
        without: a library whose import fails meanwhile, as if it were not installed: one that others import where it is
            there, and that nothing here calls.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    hidden = None if without in sys.modules else without
    if hidden:
        sys.modules[hidden] = None  # type: ignore[assignment]  # so an import of it fails
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop(hidden, None)  # a library may have taken it out itself
        gc.freeze()
        if was_enabled:
            gc.enable()
