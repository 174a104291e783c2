"""The U-Net learns from the pipeline, the same each time, and is then a predictor like any other."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.baselines.config import BaselineConfig
from sa2va_ray.baselines.run import fit_baseline
from sa2va_ray.baselines.unet_training import to_targets, unet_losses
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import decode_image, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.metrics import overlap_metrics
from sa2va_ray.models.baselines.config import UnetConfig
from sa2va_ray.models.baselines.unet import Unet
from sa2va_ray.models.model_manifest import MODEL_MANIFEST, read_model_manifest
from sa2va_ray.predict.baseline_predictors import UnetPredictor
from sa2va_ray.predict.load import load_predictor
from sa2va_ray.predict.predictor import Query

pytestmark = pytest.mark.soak

CONFIG = str(Path(__file__).parents[2] / "jobs/configs/baseline_unet.yaml")
NETWORK = UnetConfig(image_size=64, width=8)
SMALL = [
    f"unet.network.image_size={NETWORK.image_size}",
    f"unet.network.width={NETWORK.width}",
    "unet.use_gpu=false",
    "unet.cpus_per_worker=0.5",
    "unet.pipeline.actors_per_rank=1",
    "unet.pipeline.cpus_per_actor=0.25",
    "unet.global_batch_size=4",
]
NUM_EPOCHS = 12


def fit(data_uri: str, out: str, *overrides: str) -> str:
    return fit_baseline(BaselineConfig.load([CONFIG, f"data_uri={data_uri}", f"out={out}", *SMALL, *overrides]))


@pytest.fixture(scope="module")
def unet_uri(prepared_uri: str) -> str:
    uri = f"{prepared_uri}-unet"
    fit(prepared_uri, uri, f"unet.num_epochs={NUM_EPOCHS}")
    return uri


@pytest.fixture(scope="module")
def short_uri(prepared_uri: str) -> str:
    """One epoch, one worker."""
    uri = f"{prepared_uri}-unet-short"
    fit(prepared_uri, uri, "unet.num_epochs=1")
    return uri


@pytest.fixture(scope="module")
def held_out(prepared_uri: str) -> list[dict]:
    samples = SampleIndex(prepared_uri, "test")
    return [samples[i] for i in range(len(samples))]


def mean_dice(predictor: UnetPredictor, samples: list[dict]) -> float:
    predictions = predictor.predict([Query(decode_image(sample), "") for sample in samples])
    truths = [object_masks(sample).any(axis=0) for sample in samples]
    return np.mean([overlap_metrics(p.union(), t)["dice"] for p, t in zip(predictions, truths, strict=True)])


def test_it_learns(unet_uri, prepared_uri, held_out):
    torch.manual_seed(0)
    manifest = read_model_manifest(unet_uri)
    untrained = UnetPredictor(Unet(NETWORK), NETWORK.image_size, "cpu", manifest)
    trained = load_predictor(unet_uri)
    # All vessel has a Dice of about 0.2 here, which an untrained network can reach by saying yes everywhere.
    assert mean_dice(trained, held_out) > mean_dice(untrained, held_out) + 0.2


def test_the_manifest_says_what_it_was_made_from(unet_uri, prepared_uri):
    manifest, data = read_model_manifest(unet_uri), read_manifest(prepared_uri)
    assert (manifest["kind"], manifest["trained_splits"], manifest["threshold"]) == ("unet", ["train"], 0.5)
    assert manifest["data_sha256"] == digest(data)
    assert manifest["train_counts"] == data["counts"]["train"]
    assert set(manifest["files"]) == set(storage.list_files(unet_uri)) - {MODEL_MANIFEST}
    assert load_predictor(unet_uri).sha256 == digest(manifest)


def test_the_same_data_and_config_give_the_same_weights(short_uri, prepared_uri, bucket_uri):
    again = fit(prepared_uri, bucket_uri, "unet.num_epochs=1")
    assert again == digest(read_model_manifest(short_uri))


def test_two_workers_train_on_the_same_steps_as_one(short_uri, prepared_uri, bucket_uri):
    """Nine samples in steps of 4, 4 and 1: the last has nothing for one of the workers."""
    fit(prepared_uri, bucket_uri, "unet.num_epochs=1", "unet.num_workers=2")
    alone, shared = (read_model_manifest(uri)["train_metrics"]["loss"] for uri in (short_uri, bucket_uri))
    # The mean over all nine samples; sums in another order change the weights by rounding only.
    assert shared == pytest.approx(alone, rel=1e-3)


def test_a_batch_is_predicted_as_single_images(unet_uri, held_out):
    predictor = load_predictor(unet_uri)
    images = [
        decode_image(held_out[0]),
        decode_image(held_out[1]).resize((200, 90)),
        decode_image(held_out[2]).resize((33, 40)).convert("L"),
    ]
    batched = predictor.predict([Query(image, "anything") for image in images])
    for image, prediction in zip(images, batched, strict=True):
        (single,) = predictor.predict([Query(image, "something else", answer="No.")])
        assert prediction.probabilities.shape == (1, image.height, image.width)
        # Convolutions of another batch size sum in another order: float32 rounding, some 20 layers deep.
        np.testing.assert_allclose(prediction.probabilities, single.probabilities, atol=1e-4)
        assert prediction.text == ""
    assert predictor.predict([]) == []


def test_a_query_overrides_the_threshold(unet_uri, held_out):
    predict = partial(Query, decode_image(held_out[0]), "")
    low, own, high = load_predictor(unet_uri).predict([predict(threshold=t) for t in (0.0, None, 1.0)])
    assert low.masks.sum() > own.masks.sum() > high.masks.sum() == 0
    assert own.threshold == 0.5
    assert own.score == pytest.approx(own.probabilities[own.masks].mean())
    assert high.score == 0.0


def test_a_damaged_folder_is_refused(unet_uri, tmp_path):
    storage.download_folder(unet_uri, tmp_path / "model")
    weights = tmp_path / "model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="does not have the content"):
        load_predictor(str(tmp_path / "model"))
    weights.write_bytes(content[:-1])
    with pytest.raises(UserError, match="damaged"):
        load_predictor(str(tmp_path / "model"))


def test_a_folder_of_something_else_is_not_replaced(prepared_uri, tmp_path):
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match="holds 1 file"):
        fit(prepared_uri, str(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "keep me"


def test_a_run_that_the_cluster_has_no_room_for_is_refused(prepared_uri, bucket_uri):
    with pytest.raises(UserError, match=r"The job wants 100\.25 CPU in all"):
        fit(prepared_uri, bucket_uri, "unet.cpus_per_worker=100")
    assert storage.list_files(bucket_uri) == {}


def test_targets_are_the_union_and_keep_thin_vessels():
    masks = torch.zeros(2, 100, 200, dtype=torch.bool)
    masks[0, :, 60] = True  # 1 px wide, shrunk by 200 / 32
    masks[1, 50, :] = True
    target = to_targets([masks, masks.transpose(1, 2)], 32)
    assert target.shape == (2, 32, 32)
    assert (target[0].max(dim=1).values > 0.05).all()
    assert (target[0].max(dim=0).values > 0.05).all()
    assert target.mean(dim=(1, 2)) == pytest.approx(masks.any(dim=0).float().mean().item(), rel=0.05)
    torch.testing.assert_close(target[0], target[1].T)


def test_the_loss_falls_to_zero_where_all_is_right():
    target = torch.zeros(1, 8, 8)
    target[0, 2:5] = 1
    sure = 40 * (2 * target - 1)
    assert unet_losses(sure, target, torch.ones_like(target)).item() == pytest.approx(0, abs=1e-6)
    assert unet_losses(-sure, target, torch.ones_like(target)).item() == pytest.approx(40 + 1 - 1 / 65, rel=1e-4)
    assert unet_losses(sure[:0], target[:0], target[:0]).shape == (0,)


def test_the_config_of_the_folder_is_the_networks(unet_uri):
    assert json.loads(storage.read_bytes(f"{unet_uri}/config.json")) == NETWORK.model_dump()


def test_images_of_one_pixel_are_answered(unet_uri):
    (prediction,) = load_predictor(unet_uri).predict([Query(Image.new("RGB", (1, 1)), "")])
    assert prediction.masks.shape == (1, 1, 1)
