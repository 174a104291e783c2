"""`python -m jobs.fetch`, the same as `sa2va-ray fetch`; `--help` tells its keys."""

from sa2va_ray.console.verbs import run_verb

if __name__ == "__main__":
    run_verb("fetch")
