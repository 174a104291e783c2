"""Calibration against the predictor, and what of it the predictor then uses."""

import json

import numpy as np
import pytest

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.data.sample import decode_image, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.evaluate.calibrate import calibrate
from sa2va_ray.evaluate.config import CalibrateConfig
from sa2va_ray.evaluate.inputs import MeasuredModel, Split
from sa2va_ray.evaluate.passes.cleanup_grid import CLEANUPS
from sa2va_ray.manifest import digest
from sa2va_ray.metrics import THRESHOLDS, overlap_metrics
from sa2va_ray.models.model_manifest import MODEL_MANIFEST
from sa2va_ray.predict.cleanup import CleanupConfig, clean_mask
from sa2va_ray.predict.load import load_predictor
from sa2va_ray.predict.predictor import Query
from tests.evaluate.copies import copy_model

pytestmark = pytest.mark.soak


def config(model: str, data: str, **values) -> CalibrateConfig:
    return CalibrateConfig.parse({"model": model, "data_uri": data, "use_gpu": False, "cpus_per_actor": 0.5, **values})


def predicted(uri: str, data: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(patient, (H, W) probabilities, (H, W) truth) of the validation samples."""
    samples, predictor = SampleIndex(data, "val"), load_predictor(uri)
    rows = [samples[i] for i in range(len(samples))]
    answers = predictor.predict([Query(decode_image(row), evaluation_prompt("blood vessels")) for row in rows])
    return [
        (row["patient_id"], np.max(answer.probabilities, axis=0, initial=0), object_masks(row)[0])
        for row, answer in zip(rows, answers, strict=True)
    ]


def mean_dice(answers, make_mask) -> float:
    patients: dict[str, list[float]] = {}
    for patient, probabilities, truth in answers:
        patients.setdefault(patient, []).append(overlap_metrics(make_mask(probabilities), truth)["dice"])
    return float(np.mean([np.mean(values) for values in patients.values()]))


def test_the_best_threshold_and_cleanup_are_kept_with_the_model(exported_uri, prepared_uri, bucket_uri, tmp_path):
    storage.download_folder(exported_uri, tmp_path / "model")
    storage.upload_folder(tmp_path / "model", bucket_uri, last=MODEL_MANIFEST)
    before = json.loads(storage.read_bytes(f"{bucket_uri}/{MODEL_MANIFEST}"))
    facts = calibrate(config(bucket_uri, prepared_uri, tune_cleanup=True))

    answers = predicted(exported_uri, prepared_uri)
    by_threshold = [mean_dice(answers, lambda p, t=t: p > t) for t in THRESHOLDS]
    # Logits of other batches differ by rounding: a few pixels may change sides.
    assert by_threshold[THRESHOLDS.tolist().index(facts["threshold"])] == pytest.approx(max(by_threshold), abs=1e-3)
    by_cleanup = [mean_dice(answers, lambda p, c=c: clean_mask(p > facts["threshold"], c)) for c in CLEANUPS]
    chosen = CleanupConfig(**facts["cleanup"])
    assert by_cleanup[CLEANUPS.index(chosen)] == pytest.approx(max(by_cleanup), abs=1e-3)
    assert facts["calibration"]["value"] == pytest.approx(max(by_cleanup), abs=1e-3)

    after = json.loads(storage.read_bytes(f"{bucket_uri}/{MODEL_MANIFEST}"))
    assert digest(after) == digest(before)
    assert after == before | json.loads(json.dumps(facts))
    predictor = load_predictor(bucket_uri)
    assert (predictor.threshold, predictor.cleanup) == (facts["threshold"], chosen)
    page = storage.read_bytes(f"{bucket_uri}/calibration.html").decode()
    assert f"Threshold {facts['threshold']:.4g}" in page
    assert "://" not in page

    model = MeasuredModel.read(bucket_uri)
    assert model.was_calibrated_on(Split.read(prepared_uri, "val"))
    assert not model.was_calibrated_on(Split.read(prepared_uri, "test"))


def test_test_and_training_splits_are_refused(exported_uri, prepared_uri, tmp_path):
    with pytest.raises(UserError, match="allow_test_split=true"):
        calibrate(config(exported_uri, prepared_uri, split="test"))
    data_sha256 = Split.read(prepared_uri, "train").data_sha256
    model = copy_model(exported_uri, tmp_path / "model", data_sha256=data_sha256)
    with pytest.raises(UserError, match="allow_train_split=true"):
        calibrate(config(model, prepared_uri, split="train"))


def test_a_model_that_was_written_anew_is_not_touched(exported_uri, tmp_path):
    model = MeasuredModel.read(copy_model(exported_uri, tmp_path / "model"))
    (tmp_path / "model" / "README.md").write_text("another")
    copy_model(str(tmp_path / "model"), tmp_path / "other")
    storage.download_folder(str(tmp_path / "other"), tmp_path / "model")
    with pytest.raises(UserError, match="written anew"):
        model.store({"threshold": 0.1})
    assert MeasuredModel.read(model.uri).facts.threshold != 0.1
