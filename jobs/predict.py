"""Predicts masks for images, a video or a prepared data set.

    python -m jobs.predict model=s3://bucket/models/NAME source=/data/new out=s3://bucket/predictions/NAME overlays=true

Start it again with the same `out`, and it predicts what is missing.
"""

from sa2va_ray.config import run_job
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.predict.job.run import predict

if __name__ == "__main__":
    run_job(PredictConfig, predict)
