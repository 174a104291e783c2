"""Chooses a model's threshold on the validation patients and keeps it with the model.

python -m jobs.calibrate model=s3://bucket/models/NAME data_uri=s3://bucket/data
python -m jobs.calibrate model=... data_uri=... objective=recall recall_target=0.9 tune_cleanup=true
"""

from sa2va_ray.config import run_job
from sa2va_ray.evaluate.calibrate import calibrate
from sa2va_ray.evaluate.config import CalibrateConfig

if __name__ == "__main__":
    run_job(CalibrateConfig, calibrate)
