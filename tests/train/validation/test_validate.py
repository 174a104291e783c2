"""Validation on 1, 2 and 3 real processes under ZeRO-3: what the predictor says of the whole model, bit for bit, and
nothing that training would notice. The model has random weights that speak differently about each image."""

import datetime
import io
import os
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import multiprocessing

from sa2va_ray.config import UserError
from sa2va_ray.data.batch import collate
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.data.pipeline import preprocess
from sa2va_ray.data.sample import SCHEMA, decode_image, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.manifest import write_manifest
from sa2va_ray.metrics import cldice, overlap_metrics
from sa2va_ray.models.build import build_model
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.models.sa2va.decoding_sa2va import decode_answers
from sa2va_ray.models.sa2va.processing_sa2va import NEW_TOKENS, SEG_TOKEN
from sa2va_ray.pictures.panels import three_panels
from sa2va_ray.predict.predictor import Query, Sa2VAPredictor
from sa2va_ray.train.collectives import any_rank
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine import strategy
from sa2va_ray.train.engine.deepspeed import build_engine
from sa2va_ray.train.engine.zero_state import trained_parameters
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.step import MicroBatch, train_step
from sa2va_ray.train.validation.validate import validate

pytestmark = pytest.mark.soak

WORLD_SIZES = (3, 2, 1)
MAX_NEW_TOKENS = 7
SEED = 25  # answers of different lengths, with and without [SEG], that ranks give at the same time
THRESHOLD = 0.515  # near the middle of what the random model gives
SIZES = [(40, 56), (64, 64), (33, 70), (48, 32), (56, 56)]  # of the five images
PATIENTS = ["p0", "p0", "p0", "p1", "p2"]
TWO_OBJECTS = 1  # the image that has two: three ranks then have 2, 3 and 1 questions
DAMAGED = 3
DEMO = Path(__file__).parents[3] / "jobs/configs/demo.yaml"


def config_for(folder: Path) -> TrainConfig:
    return TrainConfig.load(
        [
            str(DEMO),
            f"data_uri={folder}",
            "model.architecture.grounding_config.image_size=128",
            "model.trainable.lora_dropout=0.1",
            "loss.num_points=256",
            "micro_batch_size=1",
            "validation.num_drawn=5",
            f"validation.threshold={THRESHOLD}",
            f"validation.max_new_tokens={MAX_NEW_TOKENS}",
        ]
    )


def write_data(folder: Path, count: int = len(SIZES), damaged: int | None = None) -> Path:
    """Validation samples, and the same for training."""
    folder.mkdir()
    for split in ("train", "val"):
        rows = [to_row(index, split) for index in range(count)]
        if damaged is not None:
            rows[damaged]["image"] = rows[damaged]["image"][:200]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"{split}-0.parquet", row_group_size=1)
    write_manifest(folder, {"num_rows": {"train-0.parquet": count, "val-0.parquet": count}})
    return folder


def to_row(index: int, split: str) -> dict[str, Any]:
    height, width = SIZES[index]
    random, png = np.random.default_rng(index), io.BytesIO()
    pixels = random.integers(0, 200, 3, np.uint8) + random.integers(0, 56, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(png, "PNG")
    masks = np.zeros((1 + (index == TWO_OBJECTS), height, width), bool)
    for number, mask in enumerate(masks):
        mask[8 + 10 * number : 16 + 10 * number, 5:30] = True
    objects = [{"phrase": f"vessel {number}", "rle": mask_to_rle(mask)} for number, mask in enumerate(masks)]
    return {
        "sample_id": f"s{(index * 3) % 5}",  # not in the order of the rows
        "patient_id": PATIENTS[index],
        "image": png.getvalue(),
        "height": height,
        "width": width,
        "objects": objects,
        "ignored": None,
        "split": split,
    }


# What runs in the processes


def run_rank(rank: int, world_size: int, folder: Path, out: Path) -> None:
    """One of the processes; writes what it found."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # as Ray Train sets it
    strategy.PERSISTENCE_THRESHOLD = 1000  # else too little of so small a model is shared
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/rendezvous-{world_size}",
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=120),
    )
    engine, processor = engine_for(config_for(folder))
    found = {"validated": validated(engine, processor, folder)}
    found |= {"refused": refused(engine, processor, folder.with_name("damaged"))}
    if world_size == 1:
        found |= {"reference": reference(folder)}
    if world_size == 2:
        found |= {"decoded": decoded(engine, processor, folder)}
        found |= {"larger_batches": larger_batches(engine, processor, folder)}
        found |= {"undisturbed": undisturbed(folder.with_name("small"))}
    torch.save(found, out / f"{world_size}-{rank}.pt")


def build_random(config: TrainConfig):
    """The demo's model, ready to be trained. Its weights are wide, so that images and adapters tell in what it says;
    [SEG] and the end come often."""
    model, processor = build_model(config.model)
    torch.manual_seed(SEED)
    make_trainable(model, processor, config.model.trainable)
    embedding, head = model.language_model.get_input_embeddings(), model.language_model.lm_head
    with torch.no_grad():
        head.token_adapter.base_layer.weight.normal_()
        embedding.token_adapter.base_layer.weight.normal_()
        head.token_adapter.trainable_tokens_delta["default"].normal_()
        head.token_adapter.trainable_tokens_delta["default"][NEW_TOKENS.index(SEG_TOKEN)] *= 2
        head.token_adapter.base_layer.weight[processor.end_token_id] *= 2.5
        model.mlp1[-1].weight.normal_(std=3.0)
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.4)
    return model, processor


def engine_for(config: TrainConfig):
    model, processor = build_random(config)
    return build_engine(model, config, "fp32"), processor


def validated(engine, processor, folder: Path) -> dict[str, Any]:
    is_shared = any(parameter.numel() == 0 for parameter in engine.module.parameters())
    said, predict = [], Sa2VAPredictor.predict

    def listen(self, queries, *args):
        predictions = predict(self, queries, *args)
        said.extend(predictions)
        return predictions

    Sa2VAPredictor.predict = listen
    result = validate(engine, processor, config_for(folder))
    Sa2VAPredictor.predict = predict
    return {"said": said, "result": result, "is_shared": is_shared}


def reference(folder: Path) -> list[dict[str, Any]]:
    """The predictor on the whole model, one question at a time."""
    model, processor = build_random(config_for(folder))
    predictor, samples = Sa2VAPredictor(model.eval(), processor), SampleIndex(str(folder), "val")
    rows = []
    for index in range(len(samples)):
        image, objects = decode_image(samples[index]), samples[index]["objects"]
        queries = [Query(image, evaluation_prompt(each["phrase"]), threshold=THRESHOLD) for each in objects]
        rows.append({**samples[index], "said": [predictor.predict([query], MAX_NEW_TOKENS)[0] for query in queries]})
    return rows


def undisturbed(folder: Path) -> dict[str, Any]:
    """Two steps, and two steps with a validation before each."""
    (plain_steps, plain_weights), (steps, weights) = two_steps(folder, False), two_steps(folder, True)
    return {
        "steps": steps == plain_steps,
        "different_losses": len({step.losses["loss"] for step in steps}),
        "different": [name for name, weight in plain_weights.items() if not weight.equal(weights[name])],
        "num_weights": len(plain_weights),
    }


def two_steps(folder: Path, with_validation: bool):
    config = config_for(folder)
    engine, processor = engine_for(config)
    row = SampleIndex(config.data_uri, "train")[dist.get_rank()]
    batch = collate([preprocess(row, config.pipeline, processor, np.random.default_rng(dist.get_rank()))])
    steps = []
    for number in range(2):
        if with_validation:
            check_untouched(engine, partial(validate, engine, processor, config))
        steps.append(train_step(engine, [MicroBatch(batch, number)], batch, config.loss, 1e-3))
    return steps, {name: full_weight(parameter) for name, parameter in trained_parameters(engine)}


def full_weight(parameter) -> torch.Tensor:
    return deepspeed.utils.safe_get_full_fp32_param(parameter).clone()


def check_untouched(engine, call) -> None:
    modes = [module.training for module in engine.modules()]
    assert len(set(modes)) == 2, "the frozen vision encoder is in evaluation mode while the rest trains"
    torch.manual_seed(9)
    state = torch.get_rng_state()
    call()
    assert [module.training for module in engine.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def decoded(engine, processor, folder: Path) -> dict[str, Any]:
    """A draft that one rank finds said and the other does not. The engine has validated before."""
    whole = build_random(config_for(folder))[0].eval()
    ids = torch.arange(9) + 40 * dist.get_rank()
    decode = partial(
        decode_answers,
        forced=[False],
        seg_token_id=processor.seg_token_id,
        end_token_id=processor.end_token_id,
        max_new_tokens=5,
    )
    with torch.no_grad():
        engine.eval()
        alone = decode(whole.language_model, [whole.language_model.get_input_embeddings()(ids)], [[]])[0]
        prompt = engine.module.language_model.get_input_embeddings()(ids)
        draft = alone.ids if dist.get_rank() == 0 else [1, 2, 3]
        expected = decode(whole.language_model, [prompt.clone()], [draft])[0]
        language_model = CountingCalls(engine.module.language_model)
        shared = decode(language_model, [prompt], [draft], any_rank=partial(any_rank, engine))[0]
    same_states = all(map(torch.equal, shared.seg_states, expected.seg_states))
    return {
        "same": shared.ids == expected.ids and len(shared.seg_states) == len(expected.seg_states) and same_states,
        "accepted": draft[: len(alone.ids)] == alone.ids,
        "num_calls": language_model.num_calls,
    }


class CountingCalls:
    """A language model that counts how often it is called."""

    def __init__(self, language_model):
        self._language_model, self.num_calls = language_model, 0

    def __getattr__(self, name: str):
        return getattr(self._language_model, name)

    @property
    def model(self):
        self.num_calls += 1
        return self._language_model.model


def larger_batches(engine, processor, folder: Path):
    engine.set_train_micro_batch_size(2)
    return validate(engine, processor, config_for(folder))


def refused(engine, processor, folder: Path) -> str:
    try:
        validate(engine, processor, config_for(folder))
    except RunStoppedError as error:
        return str(error)
    return ""


def run_all(folder: Path, out: Path) -> None:
    get_context("forkserver").set_forkserver_preload(
        ["sa2va_ray.train.validation.validate", "sa2va_ray.train.engine.deepspeed"]
    )
    for size in WORLD_SIZES:
        multiprocessing.start_processes(run_rank, (size, folder, out), nprocs=size, start_method="forkserver")


# What they found


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    write_data(folder / "small", count=2)
    write_data(folder / "damaged", damaged=DAMAGED)
    return write_data(folder / "data")


@pytest.fixture(scope="module")
def found(data, tmp_path_factory) -> dict[tuple[int, int], dict[str, Any]]:
    """By (number of ranks, rank)."""
    out = tmp_path_factory.mktemp("found")
    run_all(data, out)
    places = [(size, rank) for size in WORLD_SIZES for rank in range(size)]
    return {place: torch.load(out / f"{place[0]}-{place[1]}.pt", weights_only=False) for place in places}


@pytest.fixture(scope="module")
def expected(found) -> list[dict[str, Any]]:
    return found[1, 0]["reference"]


def test_the_model_speaks_differently_about_each_image(expected):
    """Else the tests below would prove little: answers with and without [SEG], of different lengths."""
    said = [prediction for row in expected for prediction in row["said"]]
    assert len({prediction.text for prediction in said}) == len(said)
    assert 0 < sum(len(prediction.masks) > 0 for prediction in said) < len(said)
    assert any(0 < mask.mean() < 1 for prediction in said for mask in prediction.masks)


def test_weights_are_really_shared(found):
    assert all(each["validated"]["is_shared"] for each in found.values())


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_ranks_say_together_what_the_predictor_says_alone(found, expected, world_size):
    for rank in range(world_size):
        said = found[world_size, rank]["validated"]["said"]
        own = [prediction for row in expected[rank::world_size] for prediction in row["said"]]
        assert len(said) >= len(own)
        for ours, theirs in zip(said, own, strict=False):
            assert ours.text == theirs.text
            np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)


def test_three_ranks_ran_the_same_number_of_questions(found):
    """2, 3 and 1 of their own."""
    assert [len(found[3, rank]["validated"]["said"]) for rank in range(3)] == [3, 3, 3]


def test_metrics_are_means_over_patients_of_means_over_images(found, expected):
    by_patient = {}
    for row in expected:
        truths = object_masks(row)
        of_objects = [
            overlap_metrics(p.union(), truth) | {"cldice": cldice(p.union(), truth), "seg_share": len(p.masks) > 0}
            for p, truth in zip(row["said"], truths, strict=True)
        ]
        image = {name: np.mean([each[name] for each in of_objects]) for name in of_objects[0]}
        by_patient.setdefault(row["patient_id"], []).append(image)
    result = found[1, 0]["validated"]["result"]
    assert {patient: row["num_images"] for patient, row in result.patients.items()} == {"p0": 3, "p1": 1, "p2": 1}
    for name in ("dice", "iou", "precision", "recall", "cldice"):
        of_patients = {patient: np.mean([each[name] for each in images]) for patient, images in by_patient.items()}
        assert {patient: row[name] for patient, row in result.patients.items()} == pytest.approx(of_patients)
        assert result.metrics[f"val/{name}"] == pytest.approx(np.mean(list(of_patients.values())))
        values = sorted(of_patients.values())
        assert values[0] <= result.metrics[f"val/{name}_low"] <= result.metrics[f"val/{name}"]
        assert result.metrics[f"val/{name}"] <= result.metrics[f"val/{name}_high"] <= values[-1]
    shares = [each["seg_share"] for images in by_patient.values() for each in images]
    assert result.metrics["val/seg_share"] == pytest.approx(np.mean(shares))


def test_all_ranks_of_all_numbers_have_the_same_result_to_the_last_bit(found):
    first = found[1, 0]["validated"]["result"]
    for each in found.values():
        result = each["validated"]["result"]
        assert result.metrics == first.metrics
        assert result.patients == first.patients
        assert list(result.pictures) == list(first.pictures)
        assert all(map(np.array_equal, result.pictures.values(), first.pictures.values()))


def test_pictures_show_the_predictions_in_the_order_of_pseudonyms(found, expected):
    pictures = found[3, 0]["validated"]["result"].pictures
    assert list(pictures) == ["s0", "s1", "s2", "s3", "s4"]
    for row in expected:
        union = np.any([prediction.union() for prediction in row["said"]], axis=0)
        picture = three_panels(np.asarray(decode_image(row)), object_masks(row).any(axis=0), union)
        np.testing.assert_array_equal(pictures[row["sample_id"]], picture)


def test_loss_parts_add_up(found):
    metrics = found[2, 0]["validated"]["result"].metrics
    parts = [metrics[f"val/loss_{name}"] for name in ("language", "mask", "dice")]
    assert all(part > 0 for part in parts)
    assert metrics["val/loss"] == pytest.approx(sum(parts))


def test_training_does_not_notice(found):
    """Losses and weights of two steps are those without validation, bit by bit."""
    for rank in range(2):
        result = found[2, rank]["undisturbed"]
        assert result["steps"]
        assert result["different_losses"] == 2
        assert result["num_weights"] > 10
        assert result["different"] == []


def test_a_rank_whose_draft_was_right_goes_on_with_the_other(found):
    accepted, rejected = (found[2, rank]["decoded"] for rank in range(2))
    assert (accepted["accepted"], rejected["accepted"]) == (True, False)
    assert accepted["same"]
    assert rejected["same"]
    assert accepted["num_calls"] == rejected["num_calls"] > 1


def test_larger_batches_differ_by_rounding_only(found):
    one, two = found[2, 0]["validated"]["result"], found[2, 0]["larger_batches"]
    assert one.metrics["val/seg_share"] == two.metrics["val/seg_share"]
    # A pixel whose logit is 0 but for rounding may change sides: one of 400 that are drawn or true.
    assert one.metrics["val/dice"] == pytest.approx(two.metrics["val/dice"], abs=0.01)
    assert one.metrics["val/loss_language"] == pytest.approx(two.metrics["val/loss_language"], rel=1e-4)


def test_a_damaged_sample_is_named_on_all_ranks(found):
    for each in found.values():
        assert "1 validation samples cannot be decoded: s4 (" in each["refused"]


def test_no_validation_samples_is_a_users_error(data, tmp_path):
    copied = tmp_path / "data"
    copied.mkdir()
    (copied / "train-0.parquet").write_bytes((data / "train-0.parquet").read_bytes())
    write_manifest(copied, {"num_rows": {"train-0.parquet": len(SIZES)}})
    with pytest.raises(UserError, match="no samples in the split 'val'"):
        validate(None, None, config_for(copied))
