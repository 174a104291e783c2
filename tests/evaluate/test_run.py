"""The evaluation job against the predictor itself."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.data.pipeline import SampleIndex
from sa2va_ray.data.sample import object_masks
from sa2va_ray.evaluate.config import EvaluateConfig
from sa2va_ray.evaluate.run import evaluate, summarize
from sa2va_ray.metrics import overlap_metrics
from sa2va_ray.predict.predictor import Query, Sa2VAPredictor


def config(model: str, data: str, out: str, **values) -> EvaluateConfig:
    return EvaluateConfig(model=model, data=data, out=out, use_gpu=False, cpus_per_actor=0.5, **values)


def test_it_measures_what_the_predictor_says(ray_cluster, exported_uri, prepared_uri, bucket_uri):
    result = evaluate(config(exported_uri, prepared_uri, bucket_uri))
    samples, predictor = SampleIndex(prepared_uri, "test"), Sa2VAPredictor.from_pretrained(exported_uri)
    expected = {}
    for sample in (samples[i] for i in range(len(samples))):
        query = Query(Image.open(io.BytesIO(sample["image"])), evaluation_prompt("blood vessels"))
        expected[sample["sample_id"]] = overlap_metrics(predictor.predict([query])[0].union(), object_masks(sample)[0])
    assert result["num_images"] == len(expected) == 9
    assert result["num_patients"] == 3
    assert result["model"]["sha256"] == predictor.sha256
    for name in ("dice", "iou", "precision", "recall"):
        # Batched and single logits differ by rounding: at most a few pixels of 128 x 128 change sides.
        assert result["per_image"][name] == pytest.approx(np.mean([row[name] for row in expected.values()]), abs=2e-3)
    assert json.loads(storage.read_bytes(f"{bucket_uri}/metrics.json")) == result
    rows = [json.loads(line) for line in storage.read_bytes(f"{bucket_uri}/images.jsonl").splitlines()]
    assert {row["sample_id"] for row in rows} == set(expected)


def test_an_empty_split_is_an_error(exported_uri, prepared_uri, bucket_uri, monkeypatch):
    monkeypatch.setattr("sa2va_ray.evaluate.run.read_manifest", lambda *_, **__: {"files": {}})
    with pytest.raises(UserError, match="no samples in the split 'val'"):
        evaluate(config(exported_uri, prepared_uri, bucket_uri, split="val"))


def test_patients_count_once_each():
    def row(patient: str, value: float) -> dict:
        return {"sample_id": f"{patient}{value}", "patient_id": patient, "has_mask": value > 0} | dict.fromkeys(
            ("dice", "iou", "precision", "recall"), value
        )

    summary = summarize([row("a", 1.0), row("a", 0.5), row("a", 0.0), row("b", 0.1)])
    assert summary["per_image"]["dice"] == pytest.approx(0.4)
    assert summary["per_patient"]["dice"] == pytest.approx(0.3)
    assert (summary["num_images"], summary["num_patients"], summary["num_without_mask"]) == (4, 2, 1)
