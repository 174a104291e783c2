"""The whole job as it goes in life, with what goes wrong: prepared to an S3 store, trained by `ray job submit`, killed
by SIGKILL behind a checkpoint, resumed by other workers, exported, verified and evaluated. Each step is told with the
seconds since the start.

    python -m benchmarks.whole_job SOURCE jobs/configs/demo.yaml                        two CPU workers, resumed by one
    python -m benchmarks.whole_job SOURCE jobs/configs/octa_8b.yaml jobs/configs/octa_8b_2gpu.yaml \\
        model.base.source=/weights model.base.sam2_checkpoint=null micro_batch_size=16 repeats=8

SOURCE is a folder of annotated images; behind it come files and key=value of jobs.train. The store, the cluster and all
logs are in `--work`, which is made; what the jobs said is in its `logs`.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from sa2va_ray.demo.stack import SCRIPTS_DIR, Stack
from sa2va_ray.prepare.identity.pseudonym_key import KEY_VARIABLE

ROOT = Path(__file__).parent.parent
BUCKET = "sa2va"
DATA, RUNS, MODEL, EVALUATION = (f"s3://{BUCKET}/{name}" for name in ("data", "runs", "model", "evaluation"))
_POLL_S = 0.2
_CHECKPOINT = ": saved"  # what the log says of one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder of annotated images")
    parser.add_argument("train", nargs="+", help="files and key=value of jobs.train")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resumed-by", type=int, default=1, help="workers that go on from the checkpoint")
    parser.add_argument("--save-every", type=int, default=4, help="steps between checkpoints")
    parser.add_argument("--work", type=Path, default=Path("/tmp/whole_job"))
    arguments = parser.parse_intermixed_args()
    os.environ.setdefault(KEY_VARIABLE, "whole_job")  # the same split each time
    run = WholeJob(arguments.work)
    source = Path(arguments.source).absolute()
    train = [
        *arguments.train,
        "name=life",
        f"data_uri={DATA}",
        f"runs_uri={RUNS}",
        f"save_every_steps={arguments.save_every}",
    ]
    try:
        run.start_store()
        run.start_cluster(arguments.workers)
        run.submit("prepare", [f"source={source}", f"out={DATA}", "split.method=balanced"])
        run.kill_behind_a_checkpoint([*train, f"num_workers={arguments.workers}"])
        run.start_cluster(arguments.resumed_by)
        run.submit("train", [*train, f"num_workers={arguments.resumed_by}"])
        run.submit("export", [f"checkpoint={RUNS}/life", f"out={MODEL}", "name=life"])
        run.submit("evaluate", [f"model={MODEL}", f"data_uri={DATA}", f"out={EVALUATION}"])
    finally:
        run.stop()


class WholeJob:
    """Its processes, and a line for each step that is done."""

    def __init__(self, work: Path):
        self._work, self._start_s = work, time.perf_counter()
        (work / "logs").mkdir(parents=True)
        self._store, self._cluster, self._num_clusters = Stack(work / "store"), Stack(work / "cluster"), 0

    def start_store(self) -> None:
        self._store.start_store(BUCKET)
        self._tell("the store is up")

    def start_cluster(self, num_workers: int) -> None:
        """A new one, which sees as many GPUs as it has workers, where there are any."""
        if torch.cuda.is_available():
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(num_workers)))
        self._num_clusters += 1
        self._cluster = Stack(self._work / f"cluster_{self._num_clusters}")
        with self._store.applied_env():  # its jobs are to find the store
            self._cluster.start_ray(num_cpus=max(os.cpu_count() or 1, 2 * num_workers), object_store_mib=2048)
        self._tell(f"a cluster for {num_workers} workers is up")

    def submit(self, verb: str, arguments: Sequence[str]) -> None:
        """Runs a job to its end.

        Raises:
            SystemExit: it failed.
        """
        log = self._log(verb)
        if self._job(verb, arguments, log).wait():
            raise SystemExit(f"jobs.{verb} failed; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-15:]))
        self._tell(f"jobs.{verb} is done")

    def kill_behind_a_checkpoint(self, arguments: Sequence[str]) -> None:
        """Trains until a checkpoint is saved, then kills Ray and all its processes.

        Raises:
            SystemExit: the training ended before.
        """
        log = self._log("train")
        job = self._job("train", arguments, log)
        has_stepped = False
        while _CHECKPOINT not in (text := log.read_text()):
            if job.poll() is not None:
                raise SystemExit(f"The training ended before it was to be killed; look at {log}.")
            if not has_stepped and "the first step is done" in text:
                has_stepped = True
                self._tell("the first step is done")
            time.sleep(_POLL_S)
        self._tell("a checkpoint is saved")
        roots = [process for each in self._cluster.processes if (process := each.find())]
        for process in {*roots, *(child for root in roots for child in root.children(recursive=True))}:
            _kill(process)
        job.kill()
        self._cluster.stop()
        self._tell("SIGKILL to Ray and all its processes")

    def stop(self) -> None:
        self._cluster.stop()
        self._store.stop()

    def _job(self, verb: str, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        command = [str(SCRIPTS_DIR / "ray"), "job", "submit", "--working-dir", ".", "--"]
        environment = {**os.environ, **self._store.env, **self._cluster.env}
        with log.open("wb") as output:
            return subprocess.Popen(
                [*command, "python", "-m", f"jobs.{verb}", *arguments],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _log(self, verb: str) -> Path:
        return self._work / "logs" / f"{verb}_{self._num_clusters}.log"

    def _tell(self, what: str) -> None:
        print(f"{time.perf_counter() - self._start_s:7.1f} s  {what}", flush=True)


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        print("a process had ended before", file=sys.stderr)


if __name__ == "__main__":
    main()
