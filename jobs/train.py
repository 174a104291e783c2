"""Trains Sa2VA on a prepared data set: DeepSpeed ZeRO-3 on Ray Train, checkpoints to object storage.

    python -m jobs.train jobs/configs/demo.yaml optim.lr=3e-4
    ray job submit --working-dir . -- python -m jobs.train jobs/configs/demo.yaml optim.lr=3e-4

Prints the URI of the last checkpoint, which `jobs.export` takes.
"""

from sa2va_ray.config import run_job
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.trainer import train

if __name__ == "__main__":
    run_job(TrainConfig, train)
