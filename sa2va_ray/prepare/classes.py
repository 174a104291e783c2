"""What the labels and mask values of a source are called."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sa2va_ray.prepare.records import Rejected, Shape

IGNORE = "ignore"
"""In place of a phrase: what is to count neither as an object nor as background."""
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_NEARLY_COLOUR = re.compile(r"#([0-9a-fA-F]{3,5}|[0-9a-fA-F]{7,8})")
_MAX_NAMED = 8


@dataclass(frozen=True)
class Classes:
    """Attributes:
    meanings: phrase, or `IGNORE` -> the labels (texts), mask values (integers) and mask colours ("#rrggbb") of it.
    listed_in: where a person finds them.
    """

    meanings: Mapping[str, Sequence[int | str]]
    listed_in: str = "`classes`"

    def __post_init__(self) -> None:
        """Raises `ValueError` for what no mask can mean."""
        every = [each for meaning in self.meanings.values() for each in meaning]
        if any(_is_value(each) and _to_value(each) < 1 for each in every):
            raise ValueError("has a mask value below 1, or black; 0 is the background")
        if self.has_colours and any(isinstance(each, int) for each in every):
            raise ValueError("has mask values and colours (#rrggbb); a mask is read by one of the two")

    @classmethod
    def parse(cls, named: Iterable[tuple[str, Sequence[int | str]]], listed_in: str = "`classes`") -> "Classes":
        """From pairs of a phrase and its meaning, as people write them.

        Raises `ValueError` for phrases that ask the same question or are no text, for empty labels, colours of other
        than six digits, and what no mask can mean.
        """
        pairs = [(_to_meaning(phrase), tuple(map(_stripped, own))) for phrase, own in named]
        times = Counter(phrase.lower().removesuffix(".") for phrase, _ in pairs)
        if max(times.values(), default=1) > 1:
            raise ValueError("has a phrase twice; upper and lower case and blanks around it do not count")
        for each in (each for _, own in pairs for each in own if isinstance(each, str)):
            if not each:
                raise ValueError("has an empty label")
            if _NEARLY_COLOUR.fullmatch(each):
                raise ValueError(
                    f"has {each!r}, which has {len(each) - 1} digits behind the #: a colour has six, as '#ff0000', and "
                    "no label is written so"
                )
        return cls(dict(pairs), listed_in)

    @cached_property
    def has_colours(self) -> bool:
        return any(_is_colour(each) for meaning in self.meanings.values() for each in meaning)

    @cached_property
    def has_values(self) -> bool:
        """Whether a mask image can be read by them."""
        return any(self.values.values())

    @cached_property
    def values(self) -> dict[str, list[int]]:
        """Phrase, or `IGNORE` -> mask values, a colour as 0xRRGGBB."""
        return {phrase: [_to_value(each) for each in own if _is_value(each)] for phrase, own in self.meanings.items()}

    def absent(self) -> dict[str, list[Shape]]:
        """All phrases that a mask image can have, each without a shape."""
        return {phrase: [] for phrase, own in self.values.items() if own and phrase != IGNORE}

    def phrases_of(self, label: str) -> list[str]:
        """Phrases, and `IGNORE`, that an object of this label belongs to.

        Raises:
            Rejected: none.
        """
        found = [phrase for phrase, meaning in self.meanings.items() if label in map(str, meaning)]
        if not found:
            raise Rejected(
                "label_unlisted",
                f"An object has a label that none of the {len(self.meanings)} `classes` lists. List it there, or in "
                "`ignore_labels`.",
            )
        return found

    def masks_of(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Phrase, or `IGNORE` -> (H, W) bool where it is, of those that are there.

        Args:
            values: (H, W) integers, colours as 0xRRGGBB; 0 is background.

        Raises:
            Rejected: values that are not listed.
        """
        present, counts = np.unique(values, return_counts=True)
        listed = {0}.union(*self.values.values())
        unknown = {int(value): int(n) for value, n in zip(present, counts, strict=True) if int(value) not in listed}
        if unknown:
            labels = {each for meaning in self.meanings.values() for each in meaning if isinstance(each, str)}
            hint = " Mask values are written without quotes." if labels & {str(value) for value in unknown} else ""
            shown = ", ".join(self._written(value) for value in list(unknown)[:_MAX_NAMED])
            raise Rejected(
                "mask_values",
                f"{sum(unknown.values())} of {values.size} pixels of the mask have {len(unknown)} value(s) that "
                f"{self.listed_in} does not list: {shown}{', ...' if len(unknown) > _MAX_NAMED else ''}.{hint}",
            )
        masks = {phrase: np.isin(values, own) for phrase, own in self.values.items() if own}
        return {phrase: mask for phrase, mask in masks.items() if mask.any()}

    def _written(self, value: int) -> str:
        return f"#{value:06x}" if self.has_colours else str(value)


def to_phrase(name: str) -> str:
    """A phrase as people write it, in Unicode form NFC without blanks around it.

    Raises:
        ValueError: it holds what no text has, and no file or table can hold.
    """
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name.strip()):
        raise ValueError("has a phrase with a control character, a line break, or half of a character")
    return unicodedata.normalize("NFC", name.strip())


def _to_meaning(name: str) -> str:
    """The phrase that a name stands for, or `IGNORE`, however that is written."""
    phrase = to_phrase(name)
    return IGNORE if phrase.lower() == IGNORE else phrase


def _stripped(meaning: int | str) -> int | str:
    return unicodedata.normalize("NFC", meaning.strip()) if isinstance(meaning, str) else meaning


def _is_colour(meaning: int | str) -> bool:
    return isinstance(meaning, str) and _COLOUR.fullmatch(meaning) is not None


def _is_value(meaning: int | str) -> bool:
    return isinstance(meaning, int) or _is_colour(meaning)


def _to_value(meaning: int | str) -> int:
    return meaning if isinstance(meaning, int) else int(meaning[1:], 16)
