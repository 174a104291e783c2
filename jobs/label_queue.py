"""`python -m jobs.label_queue`, the same as `sa2va-ray label_queue`; `--help` tells its keys."""

from sa2va_ray.console.verbs import run_verb

if __name__ == "__main__":
    run_verb("label_queue")
