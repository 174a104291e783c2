"""FLOPs, against what can be multiplied by hand."""

import pytest
import torch

from sa2va_ray.data.batch import Batch
from sa2va_ray.models.config import TrainableConfig
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.models.sa2va.configuration_sa2va import Sa2VAConfig
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import IMAGE_TOKEN, SEG_TOKEN, Sa2VAProcessor, token_id
from sa2va_ray.models.tokenizer import build_tokenizer
from sa2va_ray.train.plan.flops import FlopCounts, count_flops, named_peak

WIDTH, LAYERS, INNER, RANK = 32, 5, 64, 4


@pytest.fixture(scope="module")
def processor():
    tokenizer = build_tokenizer()
    config = Sa2VAConfig(
        vision_config=dict(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=56
        ),
        llm_config=dict(
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=INNER,
            vocab_size=len(tokenizer),
        ),
        grounding_config=dict(
            image_size=128,
            trunk=dict(
                embed_dim=16,
                num_heads=1,
                stages=[1, 2, 3, 1],
                global_att_blocks=[5],
                window_spec=[8, 4, 16, 8],
                window_pos_embed_bkg_spatial_size=[7, 7],
            ),
            neck=dict(d_model=16, backbone_channel_list=[128, 64, 32, 16]),
            memory_attention=dict(num_layers=1, dim_feedforward=16),
            memory_encoder=dict(out_dim=8),
        ),
        seg_token_id=token_id(tokenizer, SEG_TOKEN),
        image_token_id=token_id(tokenizer, IMAGE_TOKEN),
    )
    return Sa2VAProcessor(config, tokenizer)


def build(processor, **trainable) -> Sa2VAModel:
    model = Sa2VAModel(processor.config)
    make_trainable(model, processor, TrainableConfig(lora_rank=RANK, lora_dropout=0.0, **trainable))
    return model


@pytest.fixture(scope="module")
def model(processor):
    return build(processor)


@pytest.fixture(scope="module")
def adapted(model):
    return count_flops(model)


def test_lora_pays_for_activations_of_frozen_weights_and_for_its_own_twice(adapted):
    head = WIDTH // 4
    shapes = [(WIDTH, WIDTH), (WIDTH, 2 * head), (WIDTH, 2 * head), (WIDTH, WIDTH)]
    shapes += [(WIDTH, INNER), (WIDTH, INNER), (INNER, WIDTH)]
    frozen = sum(2 * inside * outside for inside, outside in shapes)
    adapters = sum(2 * RANK * (inside + outside) for inside, outside in shapes)
    assert adapted.per_token == LAYERS * (2 * frozen + 3 * adapters)
    # Scores and values, 2 WIDTH each, forward once and backward twice.
    assert adapted.per_token_pair == LAYERS * 3 * 2 * 2 * WIDTH


def test_frozen_encoders_have_no_backward_pass(processor, adapted):
    trained = count_flops(build(processor, image_encoder="full"))
    assert 2.5 * adapted.per_image < trained.per_image < 3 * adapted.per_image
    assert trained.per_tile == adapted.per_tile
    assert trained.per_object > adapted.per_object > 0  # gradients of what the decoder reads from the image


def test_a_batch_costs_what_it_holds_without_its_padding():
    flops = FlopCounts(per_tile=1e10, per_token=1e8, per_token_pair=1e6, per_target=1e4, per_image=1e2, per_object=1.0)
    batch = Batch(
        input_ids=torch.zeros(2, 5, dtype=torch.int64),
        attention_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool),
        labels=torch.tensor([[-100, -100, 7, 8, 9], [-100, -100, 7, -100, -100]]),
        pixel_values=torch.zeros(3, 3, 4, 4, dtype=torch.uint8),
        num_tiles=torch.tensor([1, 2]),
        grounding_pixel_values=torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        masks=[torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)],
        ignored=[torch.zeros(0, 4, 4, dtype=torch.bool)] * 2,
        sample_ids=["a", "b"],
    )
    assert flops.of_batch(batch) == 3e10 + 8e8 + (25 + 9) * 1e6 + 4e4 + 2e2 + 3


def test_counting_leaves_the_model_as_it_was(model, adapted):
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert all(parameter.grad is None for parameter in model.parameters())
    image = torch.zeros(1, 3, 128, 128)
    masks, _ = model.grounding_encoder(image, torch.zeros(1, 16), torch.zeros(1, dtype=torch.int64))
    assert masks.isfinite().all()  # SAM 2 keeps tables by image size: none may be left without memory


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 3090 Ti", 80),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A1000", None),
        ("cpu", None),
    ],
)
def test_peaks(name, tera):
    assert named_peak(name, "bf16") == (tera and tera * 1e12)
    assert named_peak(name, "fp32") is None
