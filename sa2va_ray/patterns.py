"""Patterns that a user gives for the paths of files, held against each within a bound of time."""

import re

import regex

from sa2va_ray.config import UserError

_MAX_S = 2.0
"""For one path, which takes microseconds. Where a pattern can be laid out over a path in many ways, all are tried."""


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
            self._pattern = regex.compile(expression)
        except (re.error, regex.error, OverflowError) as error:
            raise ValueError(f"is no regular expression: {error}") from None
        except RecursionError:
            raise ValueError("is no regular expression that can be used: its groups are too deep") from None
        self._key = key

    @property
    def groups(self) -> set[str]:
        return {*self._pattern.groupindex}

    def match(self, path: str) -> dict[str, str] | None:
        """The text of each group; a group that took no part has none. None: the path does not fit.

        Raises:
            UserError: the pattern does not come to an end. The path is not repeated: it may tell a patient.
        """
        try:
            found = self._pattern.fullmatch(path, timeout=_MAX_S)
        except TimeoutError:
            raise UserError(
                f"`{self._key}` did not come to an end in {_MAX_S:.0f} s for one path of {len(path)} signs, as it can "
                "be laid out over it in too many ways. Give it fewer wildcards and parts one behind the other, and no "
                "repetition in a repetition, such as (a+)+."
            ) from None
        return {name: text for name, text in found.groupdict().items() if text is not None} if found else None
