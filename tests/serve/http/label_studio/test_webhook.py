import pytest

from sa2va_ray.serve.http.label_studio.webhook import new_annotations
from sa2va_ray.serve.problems import Problem


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"action": "ANNOTATION_CREATED", "annotation": {"id": 3, "result": []}, "task": {"id": 1}}, [3]),
        ({"action": "ANNOTATION_CREATED", "annotation": {"id": 3, "was_cancelled": True}}, []),
        ({"action": "ANNOTATION_CREATED"}, [None]),
        (
            {"action": "ANNOTATIONS_CREATED", "annotation": [{"id": 3}, {"id": 4}, {"id": 5, "was_cancelled": True}]},
            [3, 4],
        ),
        ({"action": "ANNOTATIONS_CREATED", "annotation": [{"id": 3}, {"id": 3}]}, [3]),
        ({"action": "ANNOTATION_UPDATED", "annotation": {"id": 3}}, []),
        ({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 3}]}, []),
        ({"action": "TASKS_CREATED", "tasks": []}, []),
        ({"action": "of a later version"}, []),
    ],
)
def test_what_is_new(body, expected):
    assert new_annotations(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": 1},
        {"action": "ANNOTATION_CREATED", "annotation": 3},
        {"action": "ANNOTATION_CREATED", "annotation": {"id": "3"}},
        {"action": "ANNOTATION_CREATED", "annotation": {"id": True}},
        {"action": "ANNOTATION_CREATED", "annotation": {"id": 0}},
        {"action": "ANNOTATION_CREATED", "annotation": {"id": 2**63}},
        {"action": "ANNOTATIONS_CREATED", "annotation": [{"id": 3}, None]},
    ],
)
def test_what_is_none(body):
    with pytest.raises(Problem) as refused:
        new_annotations(body)
    assert refused.value.status == 422
