"""The process of a check: `python -m sa2va_ray.export.checks.child MODULE ARGUMENTS` calls the module's `main`."""

import sys
from importlib import import_module

from sa2va_ray.interpreter import importing

if __name__ == "__main__":
    with importing():
        module = import_module(sys.argv[1])
    module.main(*sys.argv[2:])
