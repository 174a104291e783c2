"""Fits a baseline on the training patients of a prepared data set: a small U-Net or a classical vessel filter.

    python -m jobs.baseline jobs/configs/baseline_unet.yaml data_uri=s3://bucket/data out=s3://bucket/models/unet
    python -m jobs.baseline jobs/configs/baseline_filter.yaml data_uri=s3://bucket/data out=s3://bucket/models/filter

What it writes is a model like any other: `jobs.evaluate model=s3://bucket/models/unet` measures it.
"""

from sa2va_ray.baselines.config import BaselineConfig
from sa2va_ray.baselines.run import fit_baseline
from sa2va_ray.config import run_job

if __name__ == "__main__":
    run_job(BaselineConfig, fit_baseline)
