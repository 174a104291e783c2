"""Measures an exported model on the patients of one split.

python -m jobs.evaluate model=s3://bucket/models/NAME data_uri=s3://bucket/data out=s3://bucket/evaluations/NAME
python -m jobs.evaluate model=s3://bucket/models/NAME against=s3://bucket/models/OTHER data_uri=... out=...
"""

from sa2va_ray.config import run_job
from sa2va_ray.evaluate.config import EvaluateConfig
from sa2va_ray.evaluate.run import evaluate

if __name__ == "__main__":
    run_job(EvaluateConfig, evaluate)
