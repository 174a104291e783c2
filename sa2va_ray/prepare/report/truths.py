"""Whether the truths of the samples were made alike, told."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any


def explain_truths(by_split: Mapping[str, Sequence[Mapping[str, Any]]], method: str) -> list[str]:
    """A sentence with the cure where some samples have the label of one annotator and others a consensus.

    Args:
        by_split: split -> rows of `examine.SCHEMA`.
        method: `annotators` of the config.
    """
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for split, rows in by_split.items():
        for row in rows:
            counts[len(row["annotators"] or ()) or 1][split] += 1
    if len(counts) < 2 or 1 not in counts:
        return []
    told = "; ".join(f"{each.total()} of {_annotators(number)} ({_places(each)})" for number, each in counts.items())
    of_two = ", which of two is only what both drew" if method == "majority" and 2 in counts else ""
    return [
        f"The truths are of two kinds: {told}. What one annotator drew is the truth as it stands; of several it is "
        f"their consensus by annotators={method}{of_two}. Scores tell this difference, too, most of all between "
        "splits. For truths of one kind leave out the images of one annotator, or have annotators=refuse: of the "
        "public data sets it takes the first observer's label of every image."
    ]


def _annotators(number: int) -> str:
    return "one annotator" if number == 1 else f"{number} annotators"


def _places(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items())
