"""Bodies of Label Studio's webhooks: which of them tell of new annotations.

They are those of label-studio 1.23, `webhooks/utils.py` and `webhooks/models.py`: every action comes to the webhook
that it makes for an ML back end, with what it is about, unless the webhook was told to send the action alone.
"""

from typing import Any

from sa2va_ray.serve.problems import Problem

_CREATED = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED")
_NUMBERS = range(1, 2**63)  # of a database


def new_annotations(body: dict[str, Any]) -> list[int | None]:
    """The numbers of the annotations that were submitted, each once, None for one that is not told; none of other
    actions, and none of those that were skipped.

    Raises:
        Problem: the body is not as Label Studio sends it.
    """
    action = body.get("action")
    if not isinstance(action, str):
        raise _wrong("It has no text 'action'.")
    if action not in _CREATED:
        return []
    told = body.get("annotation")
    if told is None:
        return [None]
    annotations = told if isinstance(told, list) else [told]
    if not all(isinstance(each, dict) and _is_number(each.get("id")) for each in annotations):
        raise _wrong("An annotation has no whole number 'id' from 1 to 2^63 - 1.")
    return list(dict.fromkeys(each["id"] for each in annotations if not each.get("was_cancelled")))


def _is_number(value: Any) -> bool:
    return type(value) is int and value in _NUMBERS


def _wrong(detail: str) -> Problem:
    return Problem(422, "Wrong body", detail, "Send what Label Studio sends: {action, annotation, task, project}.")
