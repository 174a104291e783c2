import pytest

from sa2va_ray.config import UserError
from sa2va_ray.labelling.config import LabelQueueConfig

PATHS = {"predictions": "p", "source": "s", "out": "o"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"project": "label_studio://7"}, "give both"),
        ({"label_studio": {"url": "http://host"}}, "give both"),
        ({"project": "7", "label_studio": {"url": "http://host"}}, "as label_studio://7"),
        ({"image_url": "s3://bucket/all.png"}, "the same address"),
        ({"max_tasks": 0}, "max_tasks"),
        ({"max_tasks": 10_001}, "max_tasks"),
        ({"patient_pattern": "(.*)"}, "no group"),
    ],
)
def test_what_is_refused(more, says):
    with pytest.raises(UserError, match=says):
        LabelQueueConfig.parse({**PATHS, **more})
