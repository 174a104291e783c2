"""What `make test` does beside pytest."""

import os
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROBE = """
import time
try:
    print("started", flush=True)
    time.sleep(60)
finally:
    time.sleep(0.2)
    print("ended what it started", flush=True)
"""


def test_what_is_interrupted_ends_in_order(tmp_path):
    """As Ctrl-C does it: each process of the group is told, that which labels the lines, too."""
    (tmp_path / "probe.py").write_text(PROBE)
    rule = f"include {ROOT}/Makefile\nprobe:\n\t@$(BIN)/python {tmp_path}/probe.py $(call labelled,unit)\n"
    (tmp_path / "Makefile").write_text(rule)
    clean = ["env", "--default-signal=INT", *(f"--unset={name}" for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"))]
    command = [*clean, "make", "-f", str(tmp_path / "Makefile"), "probe", "LABELLED=1"]
    make = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, start_new_session=True)
    assert make.stdout
    assert make.stdout.readline() == "unit: started\n"
    os.killpg(make.pid, signal.SIGINT)
    said = make.communicate(timeout=30)[0]
    assert "unit: ended what it started\n" in said
    assert make.returncode
