"""What to do with a reply that is no success: the error that it stands for, and when to try again."""

import random
from contextlib import suppress

import httpx

from sa2va_ray.client.errors import ForeignReplyError, ProblemError

LONGEST_WAIT_S = 60.0
"""A `Retry-After` beyond this is not waited for."""
BUSY = (429, 503)
"""A later try may help, whoever says so."""
_AWAY = (502, 504)
"""As `BUSY` where a proxy says so: the endpoint behind it does not run, or starts. The endpoint's own 504 is another
matter: it has taken all the time that it may for an image."""
NO_REPLY = (ValueError, TypeError, KeyError, RecursionError)
"""What reading a reply ends in that is no JSON, or another's."""
_PROBLEM = ("status", "title", "detail", "cure", "request_id")
_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S = 30.0, 0.5


def problem_of(response: httpx.Response) -> ProblemError:
    """The error that a reply without a result stands for."""
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/problem+json":
        with suppress(*NO_REPLY):  # of a gateway, whose problem documents have no cure
            document = response.json()
            return ProblemError(**{name: document[name] for name in _PROBLEM})
    request_id = response.headers.get("sa2va-request-id", "")
    cure = "Ask whoever runs the endpoint."
    return ForeignReplyError(response.status_code, response.reason_phrase, response.text[:200], cure, request_id)


def retry_after_s(response: httpx.Response, failure: ProblemError, number: int) -> float:
    """How long to wait until the next try; infinite where another try would not help. It is spread at random, so that
    clients do not come in step.

    Args:
        failure: `problem_of` the response.
    """
    is_away = failure.status in _AWAY and isinstance(failure, ForeignReplyError)
    if failure.status not in BUSY and not is_away:
        return float("inf")
    stated = response.headers.get("retry-after", "")
    return int(stated) + random.uniform(0, 0.5) if stated.isdecimal() else back_off_s(number)


def back_off_s(number: int) -> float:
    """How long to wait after the try of this number, counted from 1."""
    return min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2 ** (number - 1)) * random.uniform(0.5, 1)
