"""Exports a checkpoint as a Hugging Face folder, and checks it; or makes of an exported model one of 8-bit weights; or
checks a folder that is there.

    python -m jobs.export checkpoint=s3://bucket/runs/NAME out=s3://bucket/models/NAME name=NAME
    python -m jobs.export model=s3://bucket/models/NAME out=s3://bucket/models/NAME-int8 quantise=int8
    python -m jobs.export verify=s3://bucket/models/NAME

`checkpoint` may also name one checkpoint, s3://bucket/runs/NAME/step_00000500.
"""

from sa2va_ray.config import run_job
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.run import export

if __name__ == "__main__":
    run_job(ExportConfig, export)
