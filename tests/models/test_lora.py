"""What trains, by config: every trained tensor gets a gradient, nothing else does, and merging keeps the function."""

import pytest
import torch

from sa2va_ray.models.build import build_model
from sa2va_ray.models.config import TrainableConfig
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.models.sa2va.processing_sa2va import NEW_TOKENS, token_id

SMALL = {"lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.0}
CONFIGS = [
    {},
    {"embeddings": "all"},
    {"projector": False, "mask_decoder": False},
    {"vision_encoder": "lora"},
    {"image_encoder": "lora"},
    {"image_encoder": "full"},
]


def batch(processor) -> dict[str, torch.Tensor]:
    ids, labels = processor.training_ids([("Please segment it.", "Sure, [SEG]."), ("And the other?", "[SEG].")], 1)
    config = processor.config
    random = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.bool),
        "pixel_values": torch.randn(1, 3, config.tile_size, config.tile_size, generator=random),
        "grounding_pixel_values": torch.randint(
            0, 256, (1, 3, config.grounding_size, config.grounding_size), dtype=torch.uint8, generator=random
        ),
        "logits_mask": torch.tensor([labels]) != -100,
    }


@pytest.fixture
def model_and_processor(demo_architecture):
    return build_model(demo_architecture)


@pytest.mark.parametrize("values", CONFIGS, ids=str)
def test_every_trained_tensor_gets_a_gradient(model_and_processor, values):
    model, processor = model_and_processor
    make_trainable(model, processor, TrainableConfig(**SMALL, **values))
    # All three masks are chosen by some object in a long run; one object chooses one. Their sum stands for all.
    masks = []
    hook = model.grounding_encoder.sam2_model.sam_mask_decoder.register_forward_hook(lambda *a: masks.append(a[2][0]))
    output = model(**batch(processor))
    (output.logits.float().logsumexp(dim=-1).sum() + masks[0].float().square().sum()).backward()
    hook.remove()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # LoRA's A waits for B, which begins at zero; only the rows of tokens in the batch move among all embeddings.
    assert [name for name in without if "lora_A" not in name] == []
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_merging_keeps_the_function_and_touches_what_it_should(model_and_processor):
    model, processor = model_and_processor
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    peft_model = make_trainable(model, processor, TrainableConfig(**SMALL))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "trainable_tokens_delta" in name:
                parameter.normal_(std=0.1)
    model.eval()
    inputs = batch(processor)
    with torch.no_grad():
        adapted = model(**inputs)
        merged_model = peft_model.merge_and_unload()
        merged = merged_model(**inputs)
    # W + BA is rounded once, Wx + BAx twice.
    torch.testing.assert_close(merged.logits, adapted.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(merged.mask_logits, adapted.mask_logits, atol=1e-3, rtol=1e-3)
    after = merged_model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    embeddings = {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"}
    adapted_names = {n for n in before if "language_model.model.layers" in n and n.endswith(".weight")}
    assert changed == embeddings | {n for n in adapted_names if any(f".{part}." in n for part in linear)}
    new_rows = {token_id(processor.tokenizer, token) for token in NEW_TOKENS}
    for name in embeddings:
        assert set((before[name] != after[name]).any(dim=1).nonzero().flatten().tolist()) == new_rows


def test_frozen_vision_stays_in_evaluation_mode(model_and_processor):
    model, processor = model_and_processor
    make_trainable(model, processor, TrainableConfig(**SMALL))
    assert model.training
    assert not model.vision_model.training
