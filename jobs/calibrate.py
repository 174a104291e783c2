"""`python -m jobs.calibrate`, the same as `sa2va-ray calibrate`; `--help` tells its keys."""

from sa2va_ray.console.verbs import run_verb

if __name__ == "__main__":
    run_verb("calibrate")
