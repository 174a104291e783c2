import os
import subprocess
import sys

from sa2va_ray.submission import JOB_CONFIG_VARIABLE

_SCRIPT = """
import torch
from sa2va_ray.config import UserError
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.run import export
try:
    export(ExportConfig.load(["checkpoint=/nowhere/runs", "out=/nowhere/model"]))
except UserError:
    print(torch.get_num_threads())
"""


def test_a_submitted_export_works_on_all_cores():
    """Ray gives the process that it starts for a job one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", JOB_CONFIG_VARIABLE: "{}"}
    done = subprocess.run([sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(len(os.sched_getaffinity(0)))], done.stderr
