"""The annotations of one task: of one annotator, or of several."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sa2va_ray.prepare.records import Annotation, Finding, Rejected, SeveralLabels
from sa2va_ray.prepare.sources.items import SourceOptions
from sa2va_ray.prepare.sources.label_studio.annotation import Result, annotate

_Submitted = tuple[Any, Callable[[], Iterable[Result]]]  # who, as Label Studio tells it, and what


def is_submitted(annotation: Any) -> bool:
    """Whether an annotation is one that was neither cancelled nor skipped."""
    return isinstance(annotation, dict) and not (annotation.get("was_cancelled") or annotation.get("skipped"))


def is_skipped(task: dict[str, Any]) -> bool:
    """Whether people have skipped a task, and none has submitted an annotation of it."""
    annotations = task.get("annotations")
    if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
        return False
    return bool(annotations) and not any(map(is_submitted, annotations))


def annotate_all(
    submitted: Sequence[_Submitted], options: SourceOptions, findings: tuple[Finding, ...] = ()
) -> Annotation | SeveralLabels:
    """The annotations of a task, of which there is one at least.

    Args:
        findings: about the task.

    Raises:
        Rejected: several where the config wants one, several of one annotator, or one that cannot be read.
    """
    if len(submitted) == 1:
        annotation = annotate([*submitted[0][1]()], options)
        return replace(annotation, findings=(*annotation.findings, *findings))
    if options.annotators == "refuse":
        raise Rejected(
            "several_annotators",
            f"The task has {len(submitted)} annotations, and annotators=refuse. To learn the consensus of several "
            "annotators say annotators=majority or annotators=staple; or keep one annotation in Label Studio, and "
            "cancel the others there.",
        )
    names = [_name(who) for who, _ in submitted]
    num_known = len(set(names) - {None})
    if num_known < len(submitted):
        raise Rejected(
            "annotated_twice",
            f"The task has {len(submitted)} annotations of {num_known} annotator(s) that the export tells; of several "
            "by one it is unknown which is right. Keep one of each annotator in Label Studio, and cancel the others.",
        )
    labels = {f"label_studio/{name}": results for name, (_, results) in zip(names, submitted, strict=True)}
    return SeveralLabels({name: annotate([*results()], options) for name, results in labels.items()}, findings)


def _name(who: Any) -> str | None:
    """An annotator by number or address; exports may have a mapping with both."""
    if isinstance(who, dict):
        who = who.get("id", who.get("email"))
    return (str(who).strip() or None) if isinstance(who, int | str) else None
