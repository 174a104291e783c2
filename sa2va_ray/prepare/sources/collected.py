"""The objects of an image, by what their labels mean."""

from collections import defaultdict
from collections.abc import Collection, Iterable

from sa2va_ray.prepare.classes import IGNORE, Classes
from sa2va_ray.prepare.records import Annotation, Finding, Shape


class Collected:
    def __init__(self, ignore_labels: Collection[str], classes: Classes | None) -> None:
        """See `SourceOptions`."""
        self._ignore_labels = ignore_labels
        self._classes = classes
        self._num_ignored = 0
        self.shapes: dict[str, list[Shape]] = defaultdict(list)

    def keeps(self, label: str) -> bool:
        """Whether the shapes of an object with this label are to be read and added; called once for each object."""
        is_ignored = label in self._ignore_labels
        self._num_ignored += is_ignored
        return not is_ignored

    def add(self, label: str, shapes: Iterable[Shape]) -> None:
        """Adds an object. Raises `Rejected` where no class has its label."""
        own = list(shapes)
        for phrase in [label] if self._classes is None else self._classes.phrases_of(label):
            self.shapes[phrase] += own

    def to_annotation(
        self, size: tuple[int, int] | None, findings: Iterable[Finding] = (), is_exact: bool = False
    ) -> Annotation:
        """See `Annotation`."""
        objects = dict(self.shapes)
        ignored = objects.pop(IGNORE, []) if self._classes else []
        found = tuple(findings)
        if self._num_ignored:
            detail = f"{self._num_ignored} object(s) whose label is one of `ignore_labels` were left out."
            found = (Finding("label_ignored", detail), *found)
        return Annotation(objects, size, found, is_exact=is_exact, ignored=tuple(ignored))
