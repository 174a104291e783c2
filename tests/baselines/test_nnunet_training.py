"""nnU-Net itself, planned and trained for seconds on our splits, is then a predictor like any other."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.baselines.config import BaselineConfig
from sa2va_ray.config import UserError
from sa2va_ray.data.nnunet_layout import write_nnunet_layout
from sa2va_ray.data.sample import decode_image, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.evaluate.config import EvaluateConfig
from sa2va_ray.evaluate.run import evaluate
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.metrics import overlap_metrics
from sa2va_ray.models.baselines.config import NnunetModel
from sa2va_ray.models.model_manifest import MODEL_MANIFEST, read_model_manifest
from sa2va_ray.predict.load import load_predictor
from sa2va_ray.predict.predictor import Query
from sa2va_ray.telemetry import parse_progress

CONFIG = str(Path(__file__).parents[2] / "jobs/configs/baseline_nnunet.yaml")
NUM_EPOCHS, STEPS = 2, 12
SMALL = [
    "nnunet.use_gpu=false",
    "nnunet.num_cpus=1",
    "nnunet.gpu_memory_gb=0.1",
    f"nnunet.num_epochs={NUM_EPOCHS}",
    f"nnunet.steps_per_epoch={STEPS}",
]


@pytest.fixture(scope="module")
def job(prepared_uri: str, submit_job: Callable[..., str]) -> tuple[str, str]:
    """(URI of the model, what the job printed)."""
    uri = f"{prepared_uri}-nnunet"
    return uri, submit_job("baseline", CONFIG, f"data_uri={prepared_uri}", f"out={uri}", *SMALL)


@pytest.fixture(scope="module")
def nnunet_uri(job: tuple[str, str]) -> str:
    return job[0]


@pytest.fixture(scope="module")
def held_out(prepared_uri: str) -> list[dict]:
    samples = SampleIndex(prepared_uri, "test")
    return [samples[i] for i in range(len(samples))]


@pytest.mark.soak
def test_it_learns(nnunet_uri, held_out):
    predictions = load_predictor(nnunet_uri).predict([Query(decode_image(sample), "") for sample in held_out])
    truths = [object_masks(sample).any(axis=0) for sample in held_out]
    dice = np.mean([overlap_metrics(p.union(), t)["dice"] for p, t in zip(predictions, truths, strict=True)])
    everything = np.mean([overlap_metrics(np.ones_like(t), t)["dice"] for t in truths])
    assert dice > everything + 0.2


@pytest.mark.soak
def test_the_folder_holds_no_pickle_and_says_what_it_was_made_from(nnunet_uri, prepared_uri):
    assert set(storage.list_files(nnunet_uri)) == {"model.safetensors", "config.json", MODEL_MANIFEST}
    manifest, data = read_model_manifest(nnunet_uri), read_manifest(prepared_uri)
    assert (manifest["kind"], manifest["trained_splits"], manifest["threshold"]) == ("nnunet", ["train"], 0.5)
    assert manifest["data_sha256"] == digest(data)
    assert manifest["train_metrics"].keys() == {"loss"}
    model = NnunetModel.model_validate_json(storage.read_bytes(f"{nnunet_uri}/config.json"))
    assert model.dataset["data_sha256"] == digest(data)
    assert model.dataset["numTraining"] == data["counts"]["train"]["samples"] + data["counts"]["val"]["samples"]
    content = json.dumps([model.plans, model.dataset])
    assert not [row for row in SampleIndex(prepared_uri, "train").read(np.arange(9)) if row["sample_id"] in content]


@pytest.mark.soak
def test_jobs_evaluate_takes_it(nnunet_uri, prepared_uri, tmp_path):
    config = EvaluateConfig(
        model=nnunet_uri, data_uri=prepared_uri, out=str(tmp_path), use_gpu=False, cpus_per_actor=0.5
    )
    metrics = evaluate(config)
    assert (metrics["model"]["kind"], metrics["num_images"], metrics["failures"]) == ("nnunet", 9, [])
    assert metrics["model"]["sha256"] == digest(read_model_manifest(nnunet_uri))


@pytest.mark.soak
def test_it_is_told_how_far_it_is(job):
    done = [found for line in job[1].splitlines() if (found := parse_progress(line)) and found[0] == "nnunet"]
    assert {("nnunet", STEPS, 2 * STEPS), ("nnunet", 2 * STEPS, 2 * STEPS)} <= set(done)
    assert "epoch 2, loss" in job[1]
    assert "Please cite" not in job[1]


@pytest.mark.soak
def test_images_of_any_kind_are_answered(nnunet_uri, held_out):
    image = decode_image(held_out[0])
    images = [image.resize((200, 90)), image.resize((33, 40)).convert("L"), Image.new("RGB", (1, 1)), image]
    predictions = load_predictor(nnunet_uri).predict([Query(each, "anything") for each in images])
    for each, prediction in zip(images, predictions, strict=True):
        assert prediction.probabilities.shape == (1, each.height, each.width)
        assert 0 <= prediction.probabilities.min() <= prediction.probabilities.max() <= 1


@pytest.mark.soak
def test_nnunet_finds_nothing_wrong_with_the_layout(prepared_uri, tmp_path):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    folder = tmp_path / "Dataset001_vessels"
    write_nnunet_layout(prepared_uri, str(folder))
    verify_dataset_integrity(str(folder), num_processes=1)
    sample = SampleIndex(prepared_uri, "test")[0]
    (file,) = (folder / "imagesTs").glob(f"*_{sample['sample_id']}_0000.png")
    pixels, properties = NaturalImage2DIO().read_images([str(file)])
    # What NnunetNetwork gives nnU-Net in memory.
    np.testing.assert_array_equal(pixels[:, 0], np.asarray(decode_image(sample)).transpose(2, 0, 1)[: len(pixels)])
    assert properties["spacing"] == (999, 1, 1)


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nnunetv2", None)
    from sa2va_ray.baselines.nnunet_training import train_nnunet

    with pytest.raises(UserError, match=r"pip install 'sa2va-ray\[nnunet\]'"):
        train_nnunet(BaselineConfig.load([CONFIG, f"data_uri={tmp_path}", f"out={tmp_path}"]))


@pytest.mark.parametrize("name", ["os.system", "torch.nn.functional.torch.load", "torch.nn.modules.conv.math.inf"])
def test_plans_that_import_something_else_are_refused(name):
    kwargs = {"conv_op": "torch.nn.modules.conv.Conv2d", "norm_op": "torch.nn.InstanceNorm2d", "dropout_op": None}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": list(kwargs),
    }

    def parse(architecture: dict) -> NnunetModel:
        return NnunetModel.parse(
            {"plans": {"configurations": {"2d": {"architecture": architecture}}}, "dataset": {}, "mirroring_axes": [0]}
        )

    parse(architecture)
    with pytest.raises(UserError, match=f"name {name}"):
        parse({**architecture, "arch_kwargs": {**kwargs, "norm_op": name}})
    with pytest.raises(UserError, match=f"name {name}"):
        parse({**architecture, "network_class_name": name})
