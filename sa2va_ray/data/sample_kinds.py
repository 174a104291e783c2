"""What decides how large a sample is for any model: the size of its image, and its phrases. The manifest of a prepared
data set lists which of these each split has, so that a run can be planned before a sample is read."""

from collections.abc import Iterable, Mapping
from heapq import nlargest
from itertools import groupby
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from sa2va_ray.manifest import DamagedError

KINDS = "sample_kinds"
"""The manifest's key: split -> list of `SampleKind` as mappings."""
_NUM_LONGEST = 16
_BYTES_OF_TURN = 64  # question and answer around a phrase, as long in tokens as so many bytes of one
_Pixels = Annotated[int, Field(ge=1, le=2**20, strict=True)]


class SampleKind(NamedTuple):
    """Attributes:
    height, width: of the image as stored, in pixels.
    phrases: of the sample's objects, in their order.
    is_negative: whether none of them is on the image.
    """

    height: _Pixels
    width: _Pixels
    phrases: tuple[str, ...]
    is_negative: bool = False


_KINDS_OF_SPLIT = TypeAdapter(list[SampleKind])


def distinct_kinds(kinds: Iterable[SampleKind]) -> list[SampleKind]:
    """Each kind once, sorted.

    Of images of one size that have many lists of phrases, only those are kept that are among the 16 longest, with the
    text around each phrase or without it, or of the 16 of the most objects. Length is that in UTF-8, of which a token
    has one byte at least. Sizes are never left out.
    """
    kept: list[SampleKind] = []
    for _, group in groupby(sorted(set(kinds)), key=lambda kind: (kind.height, kind.width)):
        of_size = list(group)
        keys = (_num_bytes, lambda kind: _num_bytes(kind) + _BYTES_OF_TURN * len(kind.phrases), _by_objects)
        kept += sorted({kind for key in keys for kind in nlargest(_NUM_LONGEST, of_size, key=key)})
    return kept


def read_kinds(manifest: Mapping[str, Any], split: str) -> list[SampleKind] | None:
    """The kinds of a split, from the manifest of a prepared data set, none where it has no samples; None where an older
    version of `jobs.prepare` wrote it, which did not list them.

    Raises:
        DamagedError: what it lists are no sizes and phrases, or none where it counts samples, or the reverse.
    """
    if KINDS not in manifest:
        return None
    try:
        kinds = _KINDS_OF_SPLIT.validate_python(
            [
                (each["height"], each["width"], _listed(each["phrases"]), each.get("is_negative", False))
                for each in manifest[KINDS][split]
            ]
        )
        if bool(kinds) != bool(manifest["counts"][split]["samples"]):
            raise LookupError
        return kinds
    except (ValidationError, LookupError, TypeError):
        raise DamagedError(
            f"The manifest of the prepared data set does not list the sizes and phrases of its split '{split}' as "
            "jobs.prepare does: it was edited, or damaged. Prepare the data set again."
        ) from None


def read_phrases(manifest: Mapping[str, Any]) -> list[str]:
    """The phrases of a prepared data set, of all its splits, sorted; empty where its manifest does not tell them."""
    kinds = [kind for split in manifest.get(KINDS, ()) for kind in read_kinds(manifest, split) or ()]
    return sorted({phrase for kind in kinds for phrase in kind.phrases})


def _listed(phrases: Any) -> list[Any]:
    if not isinstance(phrases, list):  # the letters of a text would be taken for phrases
        raise TypeError
    return phrases


def _num_bytes(kind: SampleKind) -> int:
    return sum(len(phrase.encode()) for phrase in kind.phrases)


def _by_objects(kind: SampleKind) -> tuple[int, int]:
    return len(kind.phrases), _num_bytes(kind)
