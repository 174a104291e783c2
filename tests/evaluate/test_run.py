"""The evaluation job against the predictor itself, and what it must not do."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.data.sample import object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.evaluate.config import EvaluateConfig
from sa2va_ray.evaluate.inputs import MeasuredModel, Split
from sa2va_ray.evaluate.passes.answers import answer_questions, mask_sha256
from sa2va_ray.evaluate.run import evaluate
from sa2va_ray.images.masks import mask_to_rle, rle_to_mask
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.metrics import METRICS, betti_errors, cldice, overlap_metrics, surface_metrics
from sa2va_ray.predict.job.tta import predict_augmented
from sa2va_ray.predict.predictor import Query, Sa2VAPredictor
from tests.evaluate.copies import copy_data, copy_model

pytestmark = pytest.mark.soak

UNREADABLE = 4  # number of the sample that is spoiled


def config(model: str, data: str, out: str | Path, **values) -> EvaluateConfig:
    return EvaluateConfig(model=model, data_uri=data, out=str(out), use_gpu=False, cpus_per_actor=0.5, **values)


def read_rows(out: str | Path, name: str = "images.jsonl") -> list[dict]:
    return [json.loads(line) for line in storage.read_bytes(f"{out}/{name}").splitlines()]


@pytest.fixture(scope="module")
def evaluated(ray_cluster, exported_uri, prepared_uri) -> tuple[dict, str]:
    """(metrics, folder) of the test split. Image by image, since which of them share a batch is left to chance, and
    logits of other batches may differ by rounding."""
    out = "s3://tests/way/evaluation"
    return evaluate(config(exported_uri, prepared_uri, out, batch_size=1)), out


@pytest.fixture(scope="module")
def on_tampered(ray_cluster, exported_uri, prepared_uri, tmp_path_factory) -> tuple[dict, Path]:
    """The same of the same images with all labels turned inside out, and one image file cut off."""

    def tamper(number: int, sample: dict) -> dict:
        wrong = [{**each, "rle": mask_to_rle(~rle_to_mask(each["rle"]))} for each in sample["objects"]]
        image = sample["image"][:200] if number == UNREADABLE else sample["image"]
        return {**sample, "objects": wrong, "image": image}

    folder = tmp_path_factory.mktemp("tampered")
    data = copy_data(prepared_uri, folder / "data", "test", tamper)
    return evaluate(config(exported_uri, data, folder / "out", batch_size=1)), folder / "out"


def test_it_measures_what_the_predictor_says(evaluated, exported_uri, prepared_uri):
    result, out = evaluated
    samples, predictor = SampleIndex(prepared_uri, "test"), Sa2VAPredictor.from_pretrained(exported_uri)
    rows = {row["sample_id"]: row for row in read_rows(out)}
    assert len(rows) == result["num_images"] == len(samples) == 9
    assert result["num_patients"] == 3
    assert result["model"]["sha256"] == predictor.sha256
    num_equal = 0
    for sample in (samples[i] for i in range(len(samples))):
        query = Query(Image.open(io.BytesIO(sample["image"])), evaluation_prompt("blood vessels"))
        mask, truth = predictor.predict([query])[0].union(), object_masks(sample)[0]
        row, overlap = rows[sample["sample_id"]], overlap_metrics(mask, truth)
        # Processes with other numbers of threads differ by rounding: a few pixels of 128 x 128 may change sides.
        assert {name: row[name] for name in overlap} == pytest.approx(overlap, abs=5e-3)
        if row["mask_sha256"] == mask_sha256(mask):
            num_equal += 1
            expected = {**overlap, **surface_metrics(mask, truth), **betti_errors(mask, truth)}
            assert {name: row[name] for name in METRICS} == pytest.approx({**expected, "cldice": cldice(mask, truth)})
    assert num_equal >= 5


def test_mirror_images_are_averaged_as_in_a_prediction(ray_cluster, exported_uri, prepared_uri, tmp_path):
    result = evaluate(config(exported_uri, prepared_uri, tmp_path, split="val", tta="flips"))
    assert result["tta"] == "flips"
    assert "flips" in (tmp_path / "report.html").read_text()
    rows = {row["sample_id"]: row for row in read_rows(tmp_path)}
    predictor, samples = Sa2VAPredictor.from_pretrained(exported_uri), SampleIndex(prepared_uri, "val")
    differences = []
    for sample in (samples[i] for i in range(len(samples))):
        query = Query(Image.open(io.BytesIO(sample["image"])), evaluation_prompt("blood vessels"))
        plain, averaged = (
            overlap_metrics(predict_augmented(predictor, [query], tta)[0].prediction.union(), object_masks(sample)[0])
            for tta in ("none", "flips")
        )
        assert rows[sample["sample_id"]]["dice"] == pytest.approx(averaged["dice"], abs=5e-3)
        differences.append(abs(plain["dice"] - averaged["dice"]))
    assert max(differences) > 0.01, "the model is too even to tell the two ways apart"


def test_no_task_of_ray_data_takes_a_whole_cpu(ray_cluster, exported_uri, prepared_uri):
    """Beside an actor and an endpoint two cores have none, and the job waited for ever."""
    config = EvaluateConfig.parse({"model": exported_uri, "data_uri": prepared_uri, "out": "/unused", "use_gpu": False})
    answers = answer_questions(MeasuredModel.read(exported_uri), Split.read(prepared_uri, "val"), config)
    names = [operator.name for operator in answers._logical_plan.dag.post_order_iter()]
    assert names[0] == "FromItems", names
    assert not any(name.startswith("Read") for name in names)


def test_what_it_writes(evaluated, prepared_uri):
    result, out = evaluated
    assert json.loads(storage.read_bytes(f"{out}/metrics.json")) == json.loads(json.dumps(result))
    rows = read_rows(out)
    for name in METRICS:
        assert result["per_image"][name] == pytest.approx(np.mean([row[name] for row in rows]))
        low, high = result["interval_95"][name]
        assert low - 1e-9 <= result["per_patient"][name] <= high + 1e-9
    curve = result["threshold_curves"]
    assert curve["dice"][curve["thresholds"].index(result["model"]["threshold"])] == pytest.approx(
        result["per_patient"]["dice"], abs=1e-6
    )
    assert 0 <= result["probability_calibration"]["ece"] <= 1
    page = storage.read_bytes(f"{out}/report.html").decode()
    headline = " ".join(page.split())
    assert f"Measured on {len(rows)} images of 3 patients" in headline
    for sha256 in (result["split_sha256"], result["data_sha256"], result["model"]["sha256"]):
        assert sha256[:12] in headline
    assert page.count("data:image/webp") == 9
    assert "<script" not in page
    assert "://" not in page


def test_a_label_cannot_become_a_prediction(evaluated, on_tampered):
    before = {row["sample_id"]: row for row in read_rows(evaluated[1])}
    after = {row["sample_id"]: row for row in read_rows(on_tampered[1]) if row["failure"] != "image_unreadable"}
    assert len(after) == len(before) - 1
    for sample_id, row in after.items():
        assert row["mask_sha256"] == before[sample_id]["mask_sha256"]
    # The scores do see the labels.
    assert any(row[name] != before[sample_id][name] for sample_id, row in after.items() for name in METRICS)
    assert evaluated[0]["split_sha256"] != on_tampered[0]["split_sha256"]


def test_an_image_that_cannot_be_read_counts_as_an_empty_mask(on_tampered):
    result, out = on_tampered
    rows = read_rows(out)
    assert result["num_images"] == len(rows) == 9
    assert result["num_without_mask"] == sum(not row["has_mask"] for row in rows)
    (failed,) = [row for row in rows if row["failure"] == "image_unreadable"]
    assert not failed["has_mask"]
    assert rows.index(failed) == UNREADABLE
    assert (failed["failure"], failed["dice"], failed["hd95"]) == ("image_unreadable", 0.0, math.hypot(128, 128))
    assert failed["sample_id"] in [failure["sample_id"] for failure in result["failures"]]
    assert "The image cannot be read." in storage.read_bytes(f"{out}/report.html").decode()


@pytest.fixture(scope="module")
def silent_model(exported_uri, tmp_path_factory) -> str:
    """It says something, but never [SEG]."""
    folder = tmp_path_factory.mktemp("silent") / "model"
    copy_model(exported_uri, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor * 0 if "lm_head" in name else tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return copy_model(str(folder), folder.with_name("copy"), name="silent")


def test_an_answer_without_seg_counts_and_two_models_are_paired(
    silent_model, exported_uri, prepared_uri, tmp_path, caplog
):
    result = evaluate(config(silent_model, prepared_uri, tmp_path, split="val", against=exported_uri))
    assert result["num_without_mask"] == result["num_images"] == 3
    assert {failure["failure"] for failure in result["failures"]} == {"no_seg"}
    assert result["per_image"]["dice"] == 0.0
    rows, against = read_rows(tmp_path), read_rows(tmp_path, "images_against.jsonl")
    assert [row["sample_id"] for row in rows] == [row["sample_id"] for row in against]
    patients = {row["patient_id"] for row in rows}
    means = [
        np.mean([a["dice"] - b["dice"] for a, b in zip(rows, against, strict=True) if a["patient_id"] == patient])
        for patient in patients
    ]
    assert result["differences"]["dice"]["mean"] == pytest.approx(np.mean(means))
    assert result["against"]["per_patient"]["dice"] == pytest.approx(-np.mean(means))
    page = (tmp_path / "report.html").read_text()
    assert "silent against" in page
    name = result["against"]["model"]["name"]
    assert f"against {name}, of dice {-np.mean(means):.4f}: the difference is {np.mean(means):+.4f} (" in caplog.text
    (silence,) = result["silence"]
    assert (silence["num_objects"], silence["num_no_seg"], silence["num_empty"]) == (3, 3, 0)
    assert result["against"]["silence"] == []
    for told in ("\n".join(each.getMessage() for each in caplog.records if each.levelname == "WARNING"), page):
        assert "silent is SILENT: it found nothing on 3 of the 3 image(s)" in told


def test_each_of_several_phrases_has_its_own_row(exported_uri, prepared_uri, tmp_path):
    def tamper(number: int, sample: dict) -> dict:
        (vessels,) = sample["objects"]
        others = {"phrase": "what lies between", "rle": mask_to_rle(~rle_to_mask(vessels["rle"]))}
        return {**sample, "objects": [vessels, others] if number else [vessels]}

    data = copy_data(prepared_uri, tmp_path / "data", "val", tamper)
    result = evaluate(config(exported_uri, data, tmp_path / "out", split="val"))
    rows = read_rows(tmp_path / "out")
    assert [(each["phrase"], each["num_images"]) for each in result["by_phrase"]] == [
        ("blood vessels", 3),
        ("what lies between", 2),
    ]
    for each in result["by_phrase"]:
        own = [row["dice"] for row in rows if row["phrase"] == each["phrase"]]
        assert len(own) == each["num_images"]
        assert min(own) <= each["per_patient"]["dice"] <= max(own)
    page = (tmp_path / "out/report.html").read_text()
    assert "<h2>By phrase</h2>" in page
    assert '<th scope="row">what lies between</th>' in page


def test_people_are_measured_beside_the_model(exported_uri, prepared_uri, tmp_path):
    """Two annotators, one of whom drew what is true; of one image there is one."""

    def tamper(number: int, sample: dict) -> dict:
        (vessels,) = sample["objects"]
        moved = {**vessels, "rle": mask_to_rle(np.roll(rle_to_mask(vessels["rle"]), 1, axis=1))}
        several = [{"annotator": "a", "objects": [vessels]}, {"annotator": "b", "objects": [moved]}]
        return {**sample, "annotators": several if number else None}

    data = copy_data(prepared_uri, tmp_path / "data", "test", tamper)
    result = evaluate(config(exported_uri, data, tmp_path / "out"))
    ceiling = result["human_ceiling"]
    assert (ceiling["num_images"], ceiling["num_patients"]) == (8, 3)
    samples = SampleIndex(data, "test")
    truths = [object_masks(samples[place])[0] for place in range(1, 9)]
    people = [overlap_metrics(np.roll(truth, 1, axis=1), truth)["dice"] for truth in truths]
    assert ceiling["people"]["per_image"]["dice"] == pytest.approx(np.mean(people))
    low, high = ceiling["people"]["interval_95"]["dice"]
    assert low <= ceiling["people"]["per_patient"]["dice"] <= high
    assert json.loads((tmp_path / "out/metrics.json").read_text())["human_ceiling"]["people"] == json.loads(
        json.dumps(ceiling["people"])
    )
    page = " ".join((tmp_path / "out/report.html").read_text().split())
    assert "Several people drew 8 images of 3 patients" in page
    assert f"people reach a Dice of {ceiling['people']['per_patient']['dice']:.3f} and tiny" in page


def test_a_split_that_was_trained_on_is_refused_unless_that_is_said(exported_uri, prepared_uri, tmp_path):
    data_sha256 = digest(read_manifest(prepared_uri))
    model = copy_model(exported_uri, tmp_path / "model", data_sha256=data_sha256, trained_splits=["train", "val"])
    for split in ("train", "val"):
        with pytest.raises(UserError, match=f"trained on the split '{split}'.*allow_train_split=true"):
            evaluate(config(model, prepared_uri, tmp_path, split=split))
    result = evaluate(config(model, prepared_uri, tmp_path, split="val", allow_train_split=True))
    assert result["model"]["was_trained_on_split"]
    page = (tmp_path / "report.html").read_text()
    assert "<title>On TRAINING images: evaluation of" in page
    assert "<h1>On TRAINING images: evaluation of" in page


def test_a_model_that_does_not_match_its_manifest_is_refused(ray_cluster, exported_uri, prepared_uri, tmp_path):
    model = tmp_path / "model"
    storage.download_folder(exported_uri, model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="does not have the content that the manifest names"):
        evaluate(config(str(model), prepared_uri, tmp_path / "out"))
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_what_is_no_model_or_has_no_samples_is_refused(exported_uri, prepared_uri, tmp_path):
    with pytest.raises(UserError, match=r"There is nothing at .*empty"):
        evaluate(config(str(tmp_path / "empty"), prepared_uri, tmp_path / "out"))
    storage.download_folder(prepared_uri, tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    for key in ("files", "num_rows"):
        manifest[key] = {name: facts for name, facts in manifest[key].items() if not name.startswith("val-")}
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="no samples in the split 'val'"):
        evaluate(config(exported_uri, str(tmp_path / "data"), tmp_path / "out", split="val"))
