"""What a run says while it goes on: a log line and TensorBoard scalars, on rank 0."""

import tempfile
import time
from pathlib import Path

import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter

from sa2va_ray import storage
from sa2va_ray.telemetry import log_progress
from sa2va_ray.train.step import StepResult


class Reporter:
    """Counts samples over the whole run and writes `train/...` and `throughput/...` every few steps."""

    def __init__(self, run_uri: str, num_steps: int, every_steps: int):
        self.samples_seen = 0
        self._run_uri, self._num_steps, self._every_steps = run_uri, num_steps, every_steps
        self._folder = Path(tempfile.mkdtemp(prefix="tensorboard-"))
        self._writer = SummaryWriter(str(self._folder)) if dist.get_rank() == 0 else None
        self._lap_start_s, self._lap_samples = time.perf_counter(), 0

    def record(self, step: int, result: StepResult, learning_rate: float) -> dict[str, float]:
        """Takes in step number `step` (from 1). Returns its metrics by name."""
        self.samples_seen += result.num_samples
        self._lap_samples += result.num_samples
        metrics = {f"train/{name}": value for name, value in result.losses.items()}
        metrics |= {"train/lr": learning_rate, "train/grad_norm": result.grad_norm}
        if self._writer and (step % self._every_steps == 0 or step == self._num_steps):
            self._write(self._writer, step, metrics)
        return metrics

    def upload(self) -> None:
        """Sends the TensorBoard files to the run's folder."""
        if self._writer:
            self._writer.flush()
            newest = max(path.name for path in self._folder.iterdir())
            storage.upload_folder(self._folder, storage.join(self._run_uri, "tensorboard"), last=newest)

    def _write(self, writer: SummaryWriter, step: int, metrics: dict[str, float]) -> None:
        now_s = time.perf_counter()
        samples_per_s = self._lap_samples / (now_s - self._lap_start_s)
        self._lap_start_s, self._lap_samples = now_s, 0
        for name, value in {**metrics, "throughput/samples_per_s": samples_per_s}.items():
            writer.add_scalar(name, value, step)
        parts = " ".join(f"{name.removeprefix('train/')} {value:.3g}" for name, value in metrics.items())
        log_progress("train", step, self._num_steps, f"{parts} {samples_per_s:.2f} samples/s")
