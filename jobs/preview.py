"""Draws a contact sheet of augmented samples of a prepared data set.

python -m jobs.preview data_uri=s3://bucket/data out=sheet.png augment.elastic_probability=1
"""

from sa2va_ray.config import run_job
from sa2va_ray.data.preview import PreviewConfig, preview

if __name__ == "__main__":
    run_job(PreviewConfig, preview)
