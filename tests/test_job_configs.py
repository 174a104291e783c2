"""The recipes in jobs/configs fit the cards that they are for."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.plan.memory import plan_memory
from sa2va_ray.train.plan.sizes import read_model_sizes
from sa2va_ray.train.plan.table import GIB

CONFIGS = Path(__file__).parents[1] / "jobs/configs"
CARD_OF_24_GB = 23.6  # GiB that an RTX 3090 shows
CARDS = {"octa_8b": 47.4, "octa_8b_2gpu": 79.1, "octa_2b": CARD_OF_24_GB, "octa_8b_24gb": CARD_OF_24_GB}  # GiB
LANGUAGE_MODELS = {  # of InternVL3-8B and -2B
    "8B": {"hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944},
    "2B": {"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960},
}
VISION = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 448,
    "patch_size": 14,
    "qkv_bias": True,
    "norm_type": "layer_norm",
}
BASE_VOCABULARY = 151_674


def load(name: str, *overrides: str) -> TrainConfig:
    """The recipe as its header says: octa_8b.yaml, and the layer of this name over it."""
    layers = dict.fromkeys(("octa_8b", name))
    return TrainConfig.load([*(str(CONFIGS / f"{layer}.yaml") for layer in layers), *overrides])


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """InternVL3 folders without their weights: config and a tokenizer of the right size."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
    words = [f"word{number}" for number in range(BASE_VOCABULARY - len(special))]
    words_by_id = {token: index for index, token in enumerate([*words, *special])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words_by_id, unk_token="word0")), eos_token="<|im_end|>"
    )
    folders = {}
    for size, language_model in LANGUAGE_MODELS.items():
        folder = tmp_path_factory.mktemp(size)
        tokenizer.save_pretrained(folder)
        llm = {"architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 28, "vocab_size": BASE_VOCABULARY}
        config = {"model_type": "internvl_chat", "ps_version": "v2", "vision_config": VISION}
        (folder / "config.json").write_text(json.dumps({**config, "llm_config": {**llm, **language_model}}))
        folders[size] = folder
    return folders


@pytest.fixture(scope="module")
def facts(bases):
    """The facts of each recipe's model."""
    read = {}
    for size, name in (("8B", "octa_8b"), ("2B", "octa_2b")):
        config = load(name, f"model.base.source={bases[size]}")
        read[size] = read_model_sizes(config.model, torch.bfloat16)
    return {name: read["2B" if "2b" in name else "8B"] for name in CARDS}


@pytest.mark.parametrize("name", CARDS)
def test_a_recipe_is_the_guides(name):
    config = load(name)
    trainable, optim = config.model.trainable, config.optim
    assert (trainable.lora_rank, trainable.lora_alpha, trainable.lora_dropout) == (64, 128, 0.1)
    assert (trainable.vision_encoder, trainable.projector, trainable.mask_decoder) == ("frozen", True, True)
    assert (optim.lr, optim.weight_decay, optim.betas, optim.max_grad_norm) == (2e-5, 0.05, (0.9, 0.999), 1.0)
    assert optim.warmup_ratio == 0.1
    assert (config.loss.mask_weight, config.loss.dice_weight, config.loss.num_points) == (3.0, 1.0, 12_544)
    assert (config.pipeline.max_length, config.repeats, config.num_epochs) == (4096, 10, 1)
    assert (config.save_every_steps, config.keep_checkpoints) == (500, 5)
    assert (config.strategy, config.precision, config.use_gpu) == ("zero3", "bf16", True)
    assert (config.name, config.model.base.source[-2:]) == (name.replace("_", "-"), "2B" if "2b" in name else "8B")


@pytest.mark.parametrize("name", CARDS)
def test_all_recipes_have_the_guides_global_batch(name):
    config = load(name)
    assert config.global_batch_size == 32
    assert config.num_workers * config.micro_batch_size * config.gradient_accumulation_steps() == 32


def test_accumulation_follows_from_the_workers():
    steps = {name: load(name).gradient_accumulation_steps() for name in CARDS}
    assert steps == {"octa_8b": 8, "octa_8b_2gpu": 16, "octa_2b": 8, "octa_8b_24gb": 8}
    assert load("octa_8b_24gb", "num_workers=2").gradient_accumulation_steps() == 16


def test_two_gpus_train_the_same_as_four():
    """Up to where the batch is cut."""
    assert load("octa_8b_2gpu").model_copy(update={"name": "octa-8b", "num_workers": 4}) == load("octa_8b")


def test_the_model_is_the_guides(facts):
    """Its number of parameters is known; adapters and new rows come on top."""
    model = facts["octa_8b"]
    added = sum(g.num_parameters for g in model.groups if g.name in ("LoRA adapters", "new-token rows"))
    assert model.num_parameters - added == 8_182_606_130
    assert {g.name: g.num_trained for g in model.groups}["language model layers"] == 0


@pytest.mark.parametrize("name", CARDS)
def test_a_recipe_fits_its_cards(name, facts):
    plan = plan_memory(facts[name], load(name), gpu_bytes=int(CARDS[name] * GIB))
    assert plan.size.num_tokens == 4096
    assert plan.fits, f"{plan.peak_bytes / GIB:.1f} GiB"


@pytest.mark.parametrize(
    ("overrides", "gib"),
    [
        ([], {4: 12, 2: 16}),
        (["activation_checkpointing=false"], {4: 42, 2: 46}),
        (["strategy=zero2"], {4: 21, 2: 21}),
        (["strategy=zero3_offload"], {4: 6, 2: 6}),
        (["pipeline.max_length=1024", "activation_checkpointing=false"], {4: 18}),
    ],
)
def test_the_table_in_the_recipe_for_24_gb_is_the_plans(facts, overrides, gib):
    for num_workers, expected in gib.items():
        config = load("octa_8b_24gb", f"num_workers={num_workers}", *overrides)
        plan = plan_memory(facts["octa_8b_24gb"], config, gpu_bytes=int(CARD_OF_24_GB * GIB))
        assert round(plan.peak_bytes / GIB) == expected
        assert plan.fits == (expected < 22)
