"""A run of seconds as its own process, to be watched and hurt."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
from safetensors.torch import load
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from sa2va_ray import storage
from sa2va_ray.demo.stack import SCRIPTS_DIR
from sa2va_ray.manifest import read_manifest
from sa2va_ray.models.checkpoint import find_checkpoint

ROOT = Path(__file__).parents[2]
_LIMIT_S = 400


class Run:
    """`python -m jobs.train ARGUMENTS`, with its output so far in `output()`."""

    def __init__(self, arguments: list[str], folder: Path):
        self._log = folder / f"log-{time.monotonic_ns()}"
        command = [sys.executable, "-m", "jobs.train", *arguments]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    def output(self) -> str:
        return self._log.read_text()

    def error(self) -> str:
        """With what it ended, by itself; its workers' last words may stand behind that."""
        assert self.process.wait(timeout=_LIMIT_S) == 2, self.output()[-3000:]
        return next(line for line in reversed(self.output().splitlines()) if line.startswith("error: "))

    def wait_for(self, text: str) -> None:
        self._wait(lambda: text in self.output(), text)

    def finish(self) -> str:
        """Its output; fails where it fails."""
        self._wait(lambda: self.process.poll() is not None, "its end")
        assert self.process.returncode == 0, self.output()[-3000:]
        return self.output()

    def stop(self) -> None:
        """Fine where it has ended."""
        self.process.terminate()
        self.process.wait(timeout=60)

    def kill_driver(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._wait(lambda: not train_workers(), "its workers' end")

    def _wait(self, is_done: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + _LIMIT_S
        while not is_done():
            assert time.monotonic() < deadline_s, f"no {what} in {_LIMIT_S} s:\n{self.output()[-3000:]}"
            may_have_ended = what == "its end" or "its workers" in what
            assert may_have_ended or self.process.poll() is None or is_done(), self.output()[-3000:]
            time.sleep(0.05)


class Node:
    """One more node, of one CPU, of the cluster that the environment names."""

    def __init__(self, folder: Path):
        command = [
            str(SCRIPTS_DIR / "ray"),
            "start",
            f"--address={os.environ['RAY_ADDRESS']}",
            "--num-cpus=1",
            "--block",
        ]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        before = node_ids()
        with (folder / f"node-{time.monotonic_ns()}").open("w") as log:
            self.process = subprocess.Popen(
                [*command, f"--object-store-memory={200 * 2**20}"],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline_s = time.monotonic() + _LIMIT_S
        while not node_ids() - before:  # and not their number: another one may just leave
            assert time.monotonic() < deadline_s, f"no node in {_LIMIT_S} s"
            time.sleep(0.5)

    def kill_raylet(self) -> None:
        raylets = [
            each for each in psutil.Process(self.process.pid).children(recursive=True) if each.name() == "raylet"
        ]
        assert len(raylets) == 1
        raylets[0].send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """Fine where it has ended."""
        self.process.terminate()
        self.process.wait(timeout=60)


def alive_nodes() -> list[dict]:
    """Nodes of the cluster that the environment names, as the dashboard lists them."""
    headers = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    reply = httpx.get(f"{os.environ['RAY_API_SERVER_ADDRESS']}/api/v0/nodes", headers=headers, timeout=30)
    return [node for node in reply.json()["data"]["result"]["result"] if node["state"] == "ALIVE"]


def node_ids() -> set[str]:
    return {node["node_id"] for node in alive_nodes()}


def train_workers() -> list[psutil.Process]:
    """Training workers of the tests' own cluster, by process id."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if "RayTrainWorker" in " ".join(process.info["cmdline"] or [])
        and (process.info["environ"] or {}).get("RAY_AUTH_TOKEN") == os.environ["RAY_AUTH_TOKEN"]
    ]


def weights_of(uri: str, kind: str = "model") -> dict[str, Tensor]:
    """Trained tensors, or the moments ("optimizer"), of a checkpoint or of a run's newest one."""
    uri = find_checkpoint(uri)
    names = [name for name in read_manifest(uri)["files"] if name.startswith(f"{kind}-")]
    return {key: value for name in names for key, value in load(storage.read_bytes(f"{uri}/{name}")).items()}


def losses_of(run_uri: str) -> dict[int, float]:
    """Step -> loss, from the run's TensorBoard files; of a step done twice the later."""
    with tempfile.TemporaryDirectory() as folder:
        storage.download_folder(f"{run_uri}/tensorboard", Path(folder) / "tb")
        losses: dict[int, tuple[float, float]] = {}
        for file in sorted((Path(folder) / "tb").iterdir()):
            events = EventAccumulator(str(file)).Reload()
            for event in events.Scalars("train/loss") if "train/loss" in events.Tags()["scalars"] else []:
                losses[event.step] = max(losses.get(event.step, (0.0, 0.0)), (event.wall_time, event.value))
    return {step: value for step, (_, value) in losses.items()}
