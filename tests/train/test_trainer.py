"""What a run that has ended tells of its cause."""

from sa2va_ray.train.trainer import _cause

_OUT_OF_MEMORY = """1 worker(s) failed
ray.exceptions.OutOfMemoryError: 2 worker(s) were killed due to the node running low on memory.
Memory on the node (IP: 192.0.2.2, ID: 97f3) was 22.31GB used / 23.48GB limit (0.950170)
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io."""


def test_a_worker_that_was_killed_for_memory_is_told_as_that():
    told = _cause(RuntimeError(_OUT_OF_MEMORY))
    assert "22.31GB of its node's 23.48GB of memory were in use" in told
    assert "documentation" not in told


def test_other_causes_are_the_last_line():
    assert _cause(RuntimeError("Traceback ...\n\n  ValueError: 3 of 4  \n")) == "ValueError: 3 of 4"
    assert _cause(RuntimeError()) == "RuntimeError"
