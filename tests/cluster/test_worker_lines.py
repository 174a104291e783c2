"""Ray hands a driver the lines of its workers by the door that we stand in, and its core writes past it."""

import subprocess
import sys

import pytest

SCRIPT = """
import logging, sys
import ray
from sa2va_ray.cluster.resources import connect

connect()

@ray.remote(num_cpus=0.1)
def speak():
    print("Reporting training result 1: TrainingReport(metrics={})", flush=True)
    print("Requesting resources: 1", file=sys.stderr, flush=True)
    print("this is to be seen", flush=True)
    print("and this", file=sys.stderr, flush=True)

ray.get(speak.remote())
import time
time.sleep(3)  # lines come by a thread that looks now and then
"""


def test_a_driver_prints_what_tells_something(stack):
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    output = done.stdout + done.stderr
    assert "this is to be seen" in output
    assert "and this" in output
    assert "TrainingReport" not in output
    assert "Requesting resources" not in output


CORE = """
import os, sys
from pathlib import Path
import ray
from sa2va_ray.cluster.resources import connect

connect()
actor = type(sys.argv[1], (), {"__init__": lambda self, value: None, "answer": lambda self: 0})
actor = ray.remote(num_cpus=0.1, max_restarts=1)(actor).remote(ray.put(0))
logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
(log,) = logs.glob(f"python-core-driver-*_{os.getpid()}.log")
assert "has constructor arguments" in log.read_text()
"""


@pytest.mark.parametrize(("actor", "is_told"), [("MapWorker(MapBatches(Ours))", False), ("AnswerActor", True)])
def test_what_the_core_of_a_driver_says(stack, actor, is_told):
    """Ray's own line about an actor that can be started again, to the terminal and to a file of its logs."""
    done = subprocess.run([sys.executable, "-c", CORE, actor], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert ("has constructor arguments" in done.stderr) == is_told


STOPPED_AT_ITS_END = """
import atexit, os, signal
from sa2va_ray.cluster.worker_lines import quieten_job

atexit.register(os.kill, os.getpid(), signal.SIGTERM)  # runs after what is registered below, as Ray's own does
quieten_job()
"""


def test_a_job_that_is_stopped_at_its_very_end_shows_no_traceback():
    done = subprocess.run([sys.executable, "-c", STOPPED_AT_ITS_END], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
