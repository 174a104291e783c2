"""What Ray's C++ core of a driver prints, without what tells a user nothing (see `noise`).

The core writes all that it says to a file of Ray's logs, and errors to C's `stderr` besides, past Python and past what
Ray hands over of workers. What it takes for errors are warnings often enough.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sa2va_ray import noise

_TERMINAL = 2


@contextmanager
def quieten_core() -> Iterator[None]:
    """For `ray.init`: the core keeps the stream that it finds when it starts, which gets to be one to a process that
    filters. Within this process the last words of a core that ends it would be lost."""
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    stderr = ctypes.c_void_p.in_dll(libc, "stderr")
    found = stderr.value
    command = [sys.executable, "-I", noise.__file__]
    # In a session of its own, Ctrl-C does not reach it. It ends with this process.
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=_TERMINAL, start_new_session=True)
    assert reader.stdin
    with reader.stdin as pipe:
        stderr.value = libc.fdopen(os.dup(pipe.fileno()), b"w")
    try:
        yield
    finally:
        stderr.value = found
