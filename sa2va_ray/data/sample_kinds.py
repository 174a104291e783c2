"""What decides how large a sample is for any model: the size of its image, and its phrases. The manifest of a prepared
data set lists which of these each split has, so that a run can be planned before a sample is read."""

from collections.abc import Iterable, Mapping
from heapq import nlargest
from itertools import groupby
from typing import Any, NamedTuple

KINDS = "sample_kinds"
"""The manifest's key: split -> list of `SampleKind` as mappings."""
_NUM_LONGEST = 16


class SampleKind(NamedTuple):
    """Attributes:
    height, width: of the image as stored, in pixels.
    phrases: of the sample's objects, in their order.
    """

    height: int
    width: int
    phrases: tuple[str, ...]


def distinct_kinds(kinds: Iterable[SampleKind]) -> list[SampleKind]:
    """Each kind once, sorted.

    Of images of one size that have many lists of phrases, only the 16 lists that are longest in characters are kept,
    and the 16 of the most objects (of as many objects, those longest in characters). Sizes are never left out.
    """
    kept: list[SampleKind] = []
    for _, group in groupby(sorted(set(kinds)), key=lambda kind: (kind.height, kind.width)):
        of_size = list(group)
        longest = nlargest(_NUM_LONGEST, of_size, key=_num_characters)
        most_objects = nlargest(_NUM_LONGEST, of_size, key=lambda kind: (len(kind.phrases), _num_characters(kind)))
        kept += sorted({*longest, *most_objects})
    return kept


def read_kinds(manifest: Mapping[str, Any], split: str) -> list[SampleKind] | None:
    """The kinds of a split, from the manifest of a prepared data set; None where an older version of `jobs.prepare`
    wrote it, which did not list them."""
    if KINDS not in manifest:
        return None
    return [SampleKind(each["height"], each["width"], tuple(each["phrases"])) for each in manifest[KINDS][split]]


def _num_characters(kind: SampleKind) -> int:
    return sum(map(len, kind.phrases))
