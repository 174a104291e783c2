import base64

import pytest

from sa2va_ray.label_studio.interface import LabelConfig
from sa2va_ray.serve.http.label_studio.requests import (
    TaskImage,
    read_data_uri,
    read_label_config,
    read_tasks,
)
from sa2va_ray.serve.problems import Problem

CONFIG = """
<View>
  <Header value="Vessels"/>
  <Image name="photo" value="$scan" zoom="true"/>
  <Choices name="quality" toName="photo"><Choice value="good"/></Choices>
  <BrushLabels name="brush" toName="photo"><Label value="Vessel" background="red"/><Label value="Nerve"/></BrushLabels>
</View>
"""


def test_label_config():
    assert read_label_config(CONFIG) == LabelConfig("brush", "photo", "scan", ("Vessel", "Nerve"))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("", "not XML"),
        ("<View>", "not XML"),
        ("<View>\x00</View>", "not XML"),
        ("<View/>", "no BrushLabels"),
        ('<View><BrushLabels name="a" toName="b"><Label value="c"/></BrushLabels></View>', "no Image"),
        (CONFIG.replace("$scan", "scan"), "no Image"),
        (CONFIG.replace(' value="Vessel"', ""), "without a value"),
        ('<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + CONFIG, "DTD"),
        ('<?xml version="1.0"?><!DOCTYPE v SYSTEM "file:///etc/passwd"><View/>', "DTD"),
        (CONFIG.replace("Nerve", "&xxe;"), "not XML"),
    ],
)
def test_wrong_label_config(config, says):
    with pytest.raises(Problem, match=says) as caught:
        read_label_config(config)
    assert caught.value.status == 422


def test_tasks():
    body = {
        "tasks": [{"id": 3, "data": {"scan": "s3://bucket/a.png", "note": 1}}, {"id": 5, "data": {"scan": "data:,x"}}],
        "project": "1.1700000000",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": None},
    }
    config, images = read_tasks(body, max_tasks=9)
    assert config.labels == ("Vessel", "Nerve")
    assert images == [TaskImage(3, "s3://bucket/a.png"), TaskImage(5, "data:,x")]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"tasks": [], "label_config": None},
        {"tasks": {}, "label_config": CONFIG},
        {"tasks": ["a"], "label_config": CONFIG},
        {"tasks": [{"id": "3", "data": {"scan": "a"}}], "label_config": CONFIG},
        {"tasks": [{"id": 3, "data": {"image": "smith_john.png"}}], "label_config": CONFIG},
        {"tasks": [{"id": 3, "data": ["smith_john.png"]}], "label_config": CONFIG},
    ],
)
def test_wrong_bodies(body):
    with pytest.raises(Problem) as caught:
        read_tasks(body, max_tasks=9)
    assert caught.value.status == 422
    assert "smith" not in str(caught.value.document())


@pytest.mark.parametrize("label", ["a" * 2000, "a" * 3000, "a\ud800", "a\0"])
def test_labels_that_cannot_be_asked_for(label):
    config = CONFIG.replace("Nerve", label)
    with pytest.raises(Problem) as caught:
        read_label_config(config)
    assert (caught.value.status, label in str(caught.value.document())) == (422, False)


def test_data_uris():
    data = bytes(range(256))
    assert read_data_uri("data:image/png;base64," + base64.b64encode(data).decode()) == data
    assert read_data_uri("data:image/png;base64," + base64.b64encode(data).decode().replace("+", "%2B")) == data
    assert read_data_uri("data:,a%20b") == b"a b"
    halves = ("data:;base64,\ud800", "data:,\ud800", "data:;base64,\xfc")
    for wrong in ("data:image/png;base64,?", "data:image/png;base64", "https://a,b", *halves):
        with pytest.raises(Problem):
            read_data_uri(wrong)
