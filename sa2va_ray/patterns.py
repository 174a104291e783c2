"""Patterns that a user gives for the paths of files, held against each within a bound of time."""

import re
import time

import regex

from sa2va_ray.config import UserError

_MAX_S = 2.0
"""For one path, which takes microseconds. Where a pattern can be laid out over a path in many ways, all are tried."""
_SLOW_S = 0.1
"""Of a core for one path, from which on it is counted for `_MAX_SLOW_S`."""
_MAX_SLOW_S = 20.0
"""Of a core for all paths that are slow: a thousand of 1.9 s each would take half an hour without a word."""


_LITERAL_BRACE = re.compile(r"(?<!\\)(?<!\\N)\{(?!\d+(,\d*)?\}|,\d*\})")
"""A brace that repeats nothing: `re` takes it as it stands, and `regex` for a count of errors, `{d}` or `{e<=1}`."""


class PathPattern:
    """A regular expression for whole paths."""

    def __init__(self, expression: str, key: str) -> None:
        """
        Args:
            expression: as Python's `re` takes it.
            key: of the config that it comes from.

        Raises:
            ValueError: what is wrong with the expression.
        """
        try:
            re.compile(expression)  # the language that is documented, of which `regex` has more
            self._pattern = regex.compile(_LITERAL_BRACE.sub(r"\\{", expression))
        except (re.error, regex.error, OverflowError) as error:
            raise ValueError(f"is no regular expression: {error}") from None
        except RecursionError:
            raise ValueError("is no regular expression that can be used: its groups are too deep") from None
        self._key = key
        self._slow_s = 0.0

    @property
    def groups(self) -> set[str]:
        return {*self._pattern.groupindex}

    def match(self, path: str) -> dict[str, str] | None:
        """The text of each group; a group that took no part has none. None: the path does not fit.

        Raises:
            UserError: the pattern does not come to an end, for this path or for all of them together. The path is not
                repeated: it may tell a patient.
        """
        began = time.thread_time()
        try:
            found = self._pattern.fullmatch(path, timeout=_MAX_S)
        except TimeoutError:
            raise self._endless(f"did not come to an end in {_MAX_S:.0f} s for one path", path) from None
        if (took := time.thread_time() - began) > _SLOW_S:
            self._slow_s += took
            if self._slow_s > _MAX_SLOW_S:
                raise self._endless(
                    f"took {self._slow_s:.0f} s for paths of {_SLOW_S} s and more each, the last one", path
                )
        return {name: text for name, text in found.groupdict().items() if text is not None} if found else None

    def _endless(self, what: str, path: str) -> UserError:
        return UserError(
            f"`{self._key}` {what} of {len(path)} signs, as it can be laid out over it in too many ways. Give it fewer "
            "wildcards and parts one behind the other, and no repetition in a repetition, such as (a+)+."
        )
