"""What to do with a reply that is no success: the error that it stands for, and when to try again."""

import random

import httpx

from sa2va_ray.client.errors import ProblemError

LONGEST_WAIT_S = 60.0
"""A `Retry-After` beyond this is not waited for."""
BUSY = (429, 503)
_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S = 30.0, 0.5


def problem_of(response: httpx.Response) -> ProblemError:
    """The error that a reply without success stands for."""
    if response.headers.get("content-type") == "application/problem+json":
        document = response.json()
        return ProblemError(**{name: document[name] for name in ("status", "title", "detail", "cure", "request_id")})
    # Not ours: a proxy's, or Serve's own.
    request_id = response.headers.get("sa2va-request-id", "")
    cure = "Ask whoever runs the endpoint."
    return ProblemError(response.status_code, response.reason_phrase, response.text[:200], cure, request_id)


def retry_after_s(response: httpx.Response, number: int) -> float:
    """How long to wait until the next try; infinite where another try would not help. It is spread at random, so that
    clients do not come in step."""
    if response.status_code not in BUSY:
        return float("inf")
    stated = response.headers.get("retry-after", "")
    return int(stated) + random.uniform(0, 0.5) if stated.isdigit() else back_off_s(number)


def back_off_s(number: int) -> float:
    """How long to wait after the try of this number, counted from 1."""
    return min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2 ** (number - 1)) * random.uniform(0.5, 1)
