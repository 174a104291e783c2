"""A project of a server (tests/label_studio/fake.py) as a source. The real server is asked in soak."""

import json
from pathlib import Path

import numpy as np
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.images.brush_rle import mask_to_brush_rle
from sa2va_ray.images.decode import to_png
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.label_studio.address import LabelStudioConfig
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.sources import read_source
from sa2va_ray.prepare.sources.label_studio.pull import pulled
from tests.label_studio.fake import INTERFACE, LEGACY
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, codes

H, W = 20, 30
MASK = np.random.default_rng(0).random((H, W)) < 0.5
PNG = to_png(np.full((H, W), 90, np.uint8))


def brush():
    value = {"format": "rle", "rle": mask_to_brush_rle(MASK), "brushlabels": ["vessel"]}
    size = {"original_height": H, "original_width": W}
    return {"type": "brushlabels", "id": "b", "to_name": "img", **size, "value": value}


DRAWN = ({"result": [brush()]},)


def fill(studio, *images, annotations=DRAWN):
    for number, image in enumerate(images, start=len(studio.tasks) + 1):
        task = {"id": number, "data": {"photo": image, "other": "x.png"}, "annotations": list(annotations)}
        studio.tasks.append(task | {"predictions": []})


def upload(number):
    return f"/data/upload/7/1a2b3c4d-{HIDDEN}_frame_{number}.png"


def pull(studio, project=7):
    with pulled(project, LabelStudioConfig(url=studio.url)) as folder:
        source = read_source(folder, OPTIONS)
        assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert not Path(folder).exists()
    return source


def refusal(studio, project=7):
    with pytest.raises(UserError) as refused:
        pull(studio, project)
    assert HIDDEN not in str(refused.value)
    assert LEGACY not in str(refused.value)
    return str(refused.value)


def test_tasks_of_several_pages_with_their_images(studio):
    fill(studio, *map(upload, range(25)))
    fill(studio, upload(98), annotations=())
    fill(studio, upload(99), annotations=({"result": [], "was_cancelled": True},))
    studio.files |= {upload(number): PNG for number in [*range(24), 99]}
    source = pull(studio)
    assert len(source.records) == 24
    assert codes(source) == {"image_missing": 1}
    assert source.notes == ["1 task(s) of Label Studio that were only skipped there are left out."]
    assert source.records[0].plain_name == f"data/upload/7/{HIDDEN}_frame_0.png"
    for record in source.records:
        np.testing.assert_array_equal(rle_to_mask(record.label.objects["vessel"][0]), MASK)
    assert not {upload(98), upload(99)} & set(studio.asked)  # not annotated, and only skipped


def test_images_of_disks_and_clouds(studio):
    fill(studio, f"/data/local-files/?d=disk/{HIDDEN}_frame_1.png", f"s3://bucket/{HIDDEN}_frame_2.png")
    studio.files[f"/data/local-files/?d=disk/{HIDDEN}_frame_1.png"] = PNG
    address = LabelStudioConfig(url=studio.url).image_address(f"s3://bucket/{HIDDEN}_frame_2.png", 2)
    studio.files[address.raw_path_qs] = PNG
    names = [record.name for record in pull(studio).records]
    assert names == [f"disk/{HIDDEN}_frame_1.png", f"bucket/{HIDDEN}_frame_2.png"]


def test_a_path_cannot_lead_out_of_the_folder(studio, tmp_path):
    fill(studio, f"/data/local-files/?d=../../..{tmp_path}/{HIDDEN}_frame_1.png")
    studio.files[f"/data/local-files/?d=../../..{tmp_path}/{HIDDEN}_frame_1.png"] = PNG
    assert len(pull(studio).records) == 1
    assert list(tmp_path.iterdir()) == []


def test_each_fault_is_one_message(studio, monkeypatch):
    assert "has no project 8" in refusal(studio, 8)
    fill(studio, "https://elsewhere/a.png", upload(1))
    assert "images of 1 of 2 annotated tasks" in refusal(studio)
    studio.tasks = []
    fill(studio, upload(1))
    studio.files[upload(1)] = "https://bucket.example.org/a.png?signature=1"
    assert "Turn off pre-signed URLs" in refusal(studio)
    studio.interface = INTERFACE.replace("<View>", '<View><Image name="b" value="$b"/>')
    assert "2 Image tag(s)" in refusal(studio)
    studio.interface = "<View>"
    assert "not XML" in refusal(studio)
    studio.interface = INTERFACE
    studio.tasks = ["text"]
    assert "not as Label Studio 1.x answers" in refusal(studio)
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", LEGACY[:-1] + "0")
    assert "refuses the token (401). Check the token in LABEL_STUDIO_TOKEN" in refusal(studio)
    monkeypatch.delenv("LABEL_STUDIO_TOKEN")
    assert "no Label Studio token" in refusal(studio)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"source": "label_studio://7"}, "label_studio.url does not say where"),
        ({"source": "label_studio://vessels", "label_studio": {"url": "http://host"}}, "the number of a project"),
    ],
)
def test_a_config_that_does_not_say_which_project_of_which_server(values, says):
    with pytest.raises(UserError, match=says):
        PrepareConfig.parse({"out": "/tmp/out", **values})


def test_the_folder_is_an_export(studio):
    fill(studio, upload(1))
    studio.files[upload(1)] = PNG
    with pulled(7, LabelStudioConfig(url=studio.url)) as folder:
        (task,) = json.loads((Path(folder) / "tasks.json").read_text())
    assert task["data"] == {"image": f"data/upload/7/1a2b3c4d-{HIDDEN}_frame_1.png"}
