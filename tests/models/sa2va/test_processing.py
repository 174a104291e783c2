"""Image preparation and token ids are upstream's, bit by bit."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from sa2va_ray.models.sa2va.configuration_sa2va import Sa2VAConfig
from sa2va_ray.models.sa2va.grounding_sam2 import normalize_grounding_images
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor, tile_grid
from sa2va_ray.models.tokenizer import build_tokenizer


def pad_right(rows: list[list[int]], value: int) -> torch.Tensor:
    """Lists of ids of different lengths -> (B, L) int64."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def test_tile_grid_is_upstreams_in_all_cases(fixtures_dir: Path):
    cases = json.loads((fixtures_dir / "tiling_cases.json").read_text())
    assert len(cases) == 740
    for case in cases:
        grid = tile_grid(case["w"], case["h"], case["min_num"], case["max_num"], case["image_size"])
        assert grid == (case["cols"], case["rows"]), case


def test_tiles_are_upstreams(parity):
    tiles = parity.loaded.processor.image_tiles(parity.image)
    np.testing.assert_array_equal(tiles, parity.array("tiles_pixel_values"))


def test_grounding_image_is_upstreams(parity):
    image = parity.loaded.processor.grounding_image(parity.image)
    np.testing.assert_array_equal(image.permute(1, 2, 0), parity.array("g_image_uint8"))


def test_prompt_and_answer_ids_are_upstreams(parity):
    processor = parity.loaded.processor
    num_tiles = len(parity.array("tiles_pixel_values"))
    assert processor.prompt_ids(parity.prompt, num_tiles) == parity.array("prompt_input_ids").tolist()
    answer = [*processor.answer_ids(parity.answer), processor.end_token_id]
    assert answer == parity.array("answer_ids").tolist()
    assert processor.decode(answer) == parity.meta["image"]["prediction"]


def test_ids_are_looked_up_in_the_tokenizer(parity):
    ids, processor = parity.meta["token_ids"], parity.loaded.processor
    assert processor.seg_token_id == ids["[SEG]"]
    assert processor.image_token_id == ids["<IMG_CONTEXT>"]
    assert processor.end_token_id == ids["<|im_end|>"]


@pytest.mark.parametrize(("prefix", "key"), [("train", "samples"), ("nomask", "nomask_samples")])
def test_training_ids_and_labels_are_upstreams(parity, prefix: str, key: str):
    processor = parity.loaded.processor
    rows = [
        processor.training_ids(sample.turns, sample.num_image_tokens // processor.config.tokens_per_tile)
        for sample in parity.samples(key)
    ]
    mask = parity.tensor(f"{prefix}_attention_mask")
    assert mask.sum(dim=1).tolist() == [len(ids) for ids, _ in rows]
    # What the padding holds is of no consequence: nothing attends to it.
    torch.testing.assert_close(
        pad_right([ids for ids, _ in rows], 0) * mask, parity.tensor(f"{prefix}_input_ids") * mask
    )
    torch.testing.assert_close(pad_right([labels for _, labels in rows], -100), parity.tensor(f"{prefix}_labels"))


def test_normalisation_of_the_grounding_image_has_upstreams_two_roundings():
    pixels = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    exact = normalize_grounding_images(pixels, torch.float32, constants_dtype=torch.float32)
    rounded = normalize_grounding_images(pixels, torch.float32, constants_dtype=torch.bfloat16)
    value = 200 / 255
    assert exact[0, 0, 0, 200].item() == pytest.approx((value - 0.485) / 0.229, rel=1e-6)
    assert rounded[0, 0, 0, 200].item() == pytest.approx((value - 0.484375) / 0.228515625, rel=1e-6)


@pytest.fixture
def processor() -> Sa2VAProcessor:
    return Sa2VAProcessor(Sa2VAConfig(vision_config={"image_size": 28, "patch_size": 14}), build_tokenizer())


def test_a_special_token_typed_by_a_user_is_text(processor):
    assert processor.seg_token_id not in processor.prompt_ids("<image>Where is [SEG]?", num_tiles=1)
    assert processor.answer_ids("[SEG]") == [processor.seg_token_id]


def test_threads_that_encode_at_once_do_not_change_what_is_a_token(processor):
    """An endpoint prepares one batch while another is answered. A tokenizer keeps in a field of its own whether special
    tokens are tokens, which they are in an answer and are not in a question."""
    asked = [processor.follow_up_ids("Is [SEG] a token?"), processor.answer_ids("It is [SEG].")]
    assert [ids.count(processor.seg_token_id) for ids in asked] == [0, 1]

    def encode(number: int) -> bool:
        ids = processor.answer_ids("It is [SEG].") if number % 2 else processor.follow_up_ids("Is [SEG] a token?")
        return ids == asked[number % 2]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(encode, range(4000)))
