"""Prepares a data set: reads annotated images, checks, de-identifies, splits by patient and writes Parquet.

    SA2VA_PSEUDONYM_KEY=... python -m jobs.prepare source=/data/angiograms out=s3://bucket/prepared/angiograms

The same key gives the same pseudonyms, and with them the same splits: keep it, and keep it secret.
"""

from sa2va_ray.config import run_job
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.run import prepare

if __name__ == "__main__":
    run_job(PrepareConfig, prepare)
