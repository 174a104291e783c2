"""The error that ends a run on all ranks at once."""

from sa2va_ray.config import UserError


class RunStoppedError(UserError):
    """Ends a run. All ranks raise it at the same place, so that none waits for the others, and Ray does not replace
    the workers for the same end."""
