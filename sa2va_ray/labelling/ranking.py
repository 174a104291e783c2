"""Which image is to be labelled first: where the model is unsure, of one patient after the other."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sa2va_ray.predict.job.items import ImageItem


@dataclass(frozen=True)
class Candidate:
    """An image that may be labelled, with what the model made of it.

    Attributes:
        patient: as its path names them.
        row: of the results of `jobs.predict`.
        task: number of the task that shows it in the project; None where there is none yet.
    """

    item: ImageItem
    patient: str = field(repr=False)
    row: dict[str, Any] = field(repr=False)
    task: int | None = None

    @property
    def id(self) -> str:
        return self.item.id

    @property
    def uncertainty(self) -> float:
        """In [0, 1], 1 the least sure: the mean of what is known of entropy and disagreement. 1 where the model sees
        nothing at all: of that image nobody knows whether there is nothing, and a look costs a second."""
        if self.row["entropy"] is None:
            return 1.0
        known = [self.row[name] for name in ("entropy", "disagreement") if self.row[name] is not None]
        return sum(known) / len(known)


def rank(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Each patient's least sure image, the least sure of them first, then each patient's second, and so on. So no
    patient has a second image before all have their first. Ties go by id: the same input has the same order."""
    of_patient: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=_unsure_first):
        of_patient[candidate.patient].append(candidate)
    turns = [(turn, each) for own in of_patient.values() for turn, each in enumerate(own)]
    return [each for _, each in sorted(turns, key=lambda pair: (pair[0], *_unsure_first(pair[1])))]


def number_patients(ranked: Iterable[Candidate]) -> dict[str, int]:
    """Patient -> number from 1, in the order of the queue: what pages and logs call them."""
    return {patient: number for number, patient in enumerate(dict.fromkeys(each.patient for each in ranked), start=1)}


def _unsure_first(candidate: Candidate) -> tuple[float, str]:
    return -candidate.uncertainty, candidate.id
