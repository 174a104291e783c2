"""The plan against what is counted on real models, and its decisions."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from benchmarks.predict import SIZES
from sa2va_ray.config import UserError
from sa2va_ray.models import build
from sa2va_ray.models.build import build_model
from sa2va_ray.models.checkpoint import read_stored_checkpoint
from sa2va_ray.models.config import ModelConfig, TrainableConfig
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.models.sa2va.configuration_sa2va import HIERA_LARGE
from sa2va_ray.models.sa2va.grounding_sam2 import GroundingEncoder
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.models.tokenizer import build_tokenizer
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.layers import compile_layers
from sa2va_ray.train.plan import activations, memory
from sa2va_ray.train.plan.activations import SampleSize
from sa2va_ray.train.plan.memory import choose_strategy, log_measured_peak, log_plan, plan_memory
from sa2va_ray.train.plan.sizes import ModelSizes, read_model_sizes
from sa2va_ray.train.plan.table import GIB, render_plan
from tests.train.saved_runs import DATA_MANIFEST, run_config, save

DEMO = "jobs/configs/demo.yaml"
MIB = 2**20


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    """Small, with the ratios of the real language model."""
    heads = "num_attention_heads: 7, num_key_value_heads: 1"
    llm = f"{{hidden_size: 448, num_hidden_layers: 2, {heads}, intermediate_size: 2368}}"
    sizes = [f"model.architecture.llm_config={llm}", "model.architecture.grounding_config.image_size=64"]
    trainable = ["model.trainable.image_encoder=frozen", "model.trainable.lora_rank=16"]
    return TrainConfig.load([DEMO, *sizes, *trainable, "use_gpu=true", "num_workers=4", "validation.every_steps=0"])


@pytest.fixture(scope="module")
def sizes(config):
    return read_model_sizes(config.model, torch.bfloat16)


@pytest.fixture(scope="module")
def model(config):
    return _trainable_model(config.model)


def test_facts_are_those_of_the_model_that_is_built(sizes, model):
    parameters = list(model.parameters())
    assert sizes.num_parameters == sum(p.numel() for p in parameters)
    assert sizes.num_trained == sum(p.numel() for p in parameters if p.requires_grad)
    assert {p.dtype for p in parameters} == {sizes.dtype}
    groups = {group.name: group for group in sizes.groups}
    assert groups["projector"].num_parameters == groups["projector"].num_trained
    assert groups["vision encoder"].num_trained == groups["language model head"].num_trained == 0
    assert groups["new-token rows"].num_trained == 2 * 5 * 448


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_of_the_language_model_are_what_it_keeps(config, dropout):
    """What a CPU keeps: its dropout keeps masks in the model's dtype, where a GPU's keeps bytes."""
    adapted = ModelConfig.parse(config.model.model_dump() | {"trainable": {"lora_rank": 16, "lora_dropout": dropout}})
    model, sizes, num_tokens = _trainable_model(adapted), read_model_sizes(adapted, torch.bfloat16), 500
    inputs = torch.randn(1, num_tokens, 448, dtype=torch.bfloat16, requires_grad=True)
    kept = _kept_bytes(model, lambda: model.language_model.model(inputs_embeds=inputs, use_cache=False))
    planned = activations.language_model_bytes(sizes, num_tokens, checkpointing=False)
    if dropout:
        planned += 2 * num_tokens * (5 * 448 + 448 + 2368)
    assert planned == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_compiled_layers_keep_less(config, dropout, monkeypatch):
    """What the compiler chooses to keep; it cuts the graph before it makes code of it."""
    torch._dynamo.reset()
    cut = partial(torch.compile, backend="aot_eager_decomp_partition")
    monkeypatch.setattr(torch, "compile", cut)
    adapted = ModelConfig.parse(config.model.model_dump() | {"trainable": {"lora_rank": 16, "lora_dropout": dropout}})
    model, sizes, num_tokens = _trainable_model(adapted), read_model_sizes(adapted, torch.bfloat16), 500
    compile_layers(model, "zero2", micro_batch_size=1)
    inputs = torch.randn(1, num_tokens, 448, dtype=torch.bfloat16, requires_grad=True)
    kept = _kept_bytes(model, lambda: model.language_model.model(inputs_embeds=inputs, use_cache=False))
    planned = activations.language_model_bytes(sizes, num_tokens, checkpointing=False, compiled=True)
    assert planned == pytest.approx(kept, rel=0.05)


def test_with_checkpointing_only_inputs_of_layers_are_kept(sizes, model):
    inputs = torch.randn(1, 500, 448, dtype=torch.bfloat16, requires_grad=True)
    model.language_model.activation_checkpointing_enable({"use_reentrant": False})
    kept = _kept_bytes(model, lambda: model.language_model.model(inputs_embeds=inputs, use_cache=False))
    model.language_model.activation_checkpointing_disable()
    # Beside the inputs and the last norm: the tables of the rotary embedding.
    assert activations.language_model_bytes(sizes, 500, checkpointing=True) == pytest.approx(kept, rel=0.15)


def test_activations_of_the_mask_decoder_are_what_it_keeps(sizes):
    """The decoder of hiera-large behind a small trunk, for one object and for three."""
    sizes = _with_sam2(sizes, {**HIERA_LARGE, "image_size": 512})
    encoder = GroundingEncoder(_with_small_trunk(sizes.architecture.grounding_config)).bfloat16()
    encoder.requires_grad_(False)
    encoder.sam2_model.sam_mask_decoder.requires_grad_(True)
    image = torch.randn(1, 3, 512, 512, dtype=torch.bfloat16)
    for num_objects in (1, 3):
        prompts = torch.randn(num_objects, 256, dtype=torch.bfloat16, requires_grad=True)
        index = torch.zeros(num_objects, dtype=torch.int64)
        kept = _kept_bytes(encoder, lambda p=prompts, i=index: encoder(image, p, i))
        assert activations.mask_decoder_bytes(sizes, 1, num_objects) == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize("stages", [[1, 2, 4, 1], [2, 2, 2, 2]])
def test_activations_of_a_trained_image_encoder_are_what_its_trunk_keeps(sizes, stages):
    """Hiera's blocks keep less than the first ones of a stage, which read four times as many places."""
    grounding = _with_small_trunk({**HIERA_LARGE, "image_size": 512})
    grounding["trunk"] = {**grounding["trunk"], "embed_dim": 32, "stages": stages, "global_att_blocks": [5]}
    grounding["neck"] = {**grounding["neck"], "backbone_channel_list": [256, 128, 64, 32]}
    sizes = _with_sam2(replace(sizes, trainable=TrainableConfig(image_encoder="full")), grounding)
    trunk = GroundingEncoder(grounding).bfloat16().sam2_model.image_encoder.trunk
    kept = _kept_bytes(trunk, lambda: trunk(torch.randn(1, 3, 512, 512, dtype=torch.bfloat16)))
    assert activations.image_encoder_bytes(sizes, 1, checkpointing=False) == pytest.approx(kept, rel=0.05)


_UNSHARDED = ("vision encoder", "SAM 2 image encoder", "SAM 2 memory and prompts")


def test_states_follow_the_zero_paper(sizes, config):
    """In bytes a value, of weights w, gradients g, optimizer o: zero2 w + (g + o) / N, zero3 (w + g + o) / N, but for
    the frozen encoders and the rest of SAM 2, which stay whole."""
    plans = {
        s: plan_memory(sizes, config.model_copy(update={"strategy": s})) for s in ("zero2", "zero3", "zero3_offload")
    }
    weights = {s: plan.gpu["frozen weights"] + plan.gpu["trained weights"] for s, plan in plans.items()}
    assert weights["zero2"] == pytest.approx(2 * sizes.num_parameters, rel=1e-5)
    whole = sum(each.num_parameters for each in sizes.groups if each.name in _UNSHARDED)
    assert 0 < whole < sizes.num_parameters
    assert weights["zero3"] == pytest.approx(2 * (whole + (sizes.num_parameters - whole) / 4), rel=1e-5)
    for strategy in ("zero2", "zero3"):
        assert plans[strategy].gpu["gradients"] == pytest.approx(2 * sizes.num_trained / 4, rel=1e-5)
        assert plans[strategy].gpu["optimizer state"] == pytest.approx(12 * sizes.num_trained / 4, rel=1e-5)
    offload = plans["zero3_offload"]
    assert weights["zero3_offload"] == offload.gpu["optimizer state"] == offload.gpu["gradients"] == 0
    assert offload.host["offloaded weights"] == 2 * sizes.num_parameters
    assert offload.host["offloaded gradients and optimizer state"] == 18 * sizes.num_trained


@pytest.fixture(scope="module")
def full_size() -> Callable[[bool, str], ModelSizes]:
    """Of the 8B model, with a vocabulary of a few hundred or InternVL3's own 151,679, and the embeddings that train."""

    @cache
    def read(has_real_vocabulary: bool, embeddings: str) -> ModelSizes:
        tokenizer = build_tokenizer()
        if has_real_vocabulary:
            tokenizer.add_tokens([f"<unused {index}>" for index in range(151_679 - len(tokenizer))])
        model = {"architecture": SIZES["8b"], "trainable": {"embeddings": embeddings}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "build_tokenizer", lambda: tokenizer)
            return read_model_sizes(ModelConfig.parse(model), torch.bfloat16)

    return read


_COMPILED, _CHECKPOINTING = {"compile_layers": True}, {"activation_checkpointing": True}


@pytest.mark.parametrize(
    ("measured_gib", "strategy", "num_workers", "micro_batch_size", "changes", "has_real_vocabulary", "embeddings"),
    [
        (19.4, "zero3", 1, 1, {}, False, "new_tokens"),
        (18.1, "zero3", 1, 1, _CHECKPOINTING, False, "new_tokens"),
        (18.1, "zero3", 1, 4, _CHECKPOINTING, False, "new_tokens"),
        (10.8, "zero3", 2, 1, _CHECKPOINTING, False, "new_tokens"),
        (18.9, "zero2", 1, 1, {}, False, "new_tokens"),
        (17.8, "zero2", 1, 4, _CHECKPOINTING, False, "new_tokens"),
        (2.0, "zero3_offload", 1, 1, _CHECKPOINTING, False, "new_tokens"),
        (54.4, "zero2", 1, 16, {}, False, "new_tokens"),
        (78.0, "zero2", 1, 32, _COMPILED, False, "new_tokens"),
        (78.1, "zero3", 1, 32, _COMPILED, False, "new_tokens"),
        (108.6, "zero2", 1, 48, _COMPILED, False, "new_tokens"),
        (83.9, "zero2", 1, 32, _COMPILED, True, "new_tokens"),
        (82.5, "zero2", 2, 32, _COMPILED, True, "new_tokens"),
        (72.3, "zero2", 1, 16, {}, True, "all"),
        (20.6, "zero3", 2, 4, _CHECKPOINTING, True, "all"),
    ],
)
def test_the_plan_of_full_size_is_near_what_gpus_measured(
    config, full_size, measured_gib, strategy, num_workers, micro_batch_size, changes, has_real_vocabulary, embeddings
):
    """docs/en/performance.md has the runs: 283 tokens with the small vocabulary, 296 with the real one."""
    sizes = full_size(has_real_vocabulary, embeddings)
    of_run = {"strategy": strategy, "num_workers": num_workers, "micro_batch_size": micro_batch_size, **changes}
    wanted = TrainConfig.parse(config.model_dump() | {"global_batch_size": 192, **of_run})
    size = SampleSize(num_tokens=296 if has_real_vocabulary else 283, num_tiles=1)
    planned_gib = plan_memory(sizes, wanted, size=size).allocated_bytes / GIB
    assert 0.96 * measured_gib < planned_gib < 1.1 * measured_gib


def test_a_checkpoint_is_three_floats_for_each_trained_value(sizes, config):
    assert plan_memory(sizes, config).checkpoint_bytes == 12 * sizes.num_trained


def test_auto_takes_the_fastest_strategy_that_fits(sizes, config):
    peaks = {s: plan_memory(sizes, config.model_copy(update={"strategy": s})).peak_bytes for s in ("zero2", "zero3")}
    assert choose_strategy(sizes, config, 24 * GIB) == "zero2"
    # This model is so small that what ZeRO-3 gathers is all of it.
    assert peaks["zero2"] < peaks["zero3"]
    auto = config.model_copy(update={"strategy": "auto"})
    assert plan_memory(sizes, auto, gpu_bytes=24 * GIB).strategy == "zero2"
    assert plan_memory(sizes, auto).strategy == "zero3"


def test_auto_goes_on_to_what_is_smaller(config):
    """A model whose weights are large, beside what ZeRO-3 gathers of it."""
    large = config.model.model_dump()
    large["architecture"]["llm_config"] |= {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    large["architecture"]["llm_config"] |= {"num_attention_heads": 28, "num_key_value_heads": 4}
    sizes = read_model_sizes(ModelConfig.parse(large), torch.bfloat16)
    size = SampleSize(num_tokens=300, num_tiles=1)
    assert [choose_strategy(sizes, config, gib * GIB, size) for gib in (40, 14, 8)] == [
        "zero2",
        "zero3",
        "zero3_offload",
    ]
    assert choose_strategy(sizes, config, 3 * GIB, size) == "zero3_offload"  # the smallest, which does not fit either


@pytest.mark.parametrize(("global_batch_size", "num_workers"), [(32, 4), (32, 1), (30, 4), (7, 2)])
def test_auto_takes_the_largest_micro_batch_that_fits_in_passes_of_one_size(
    sizes, config, global_batch_size, num_workers
):
    changes = {"micro_batch_size": "auto", "global_batch_size": global_batch_size, "num_workers": num_workers}
    wanted = config.model_copy(update={**changes, "strategy": "zero3"})
    of_a_step = -(-global_batch_size // num_workers)
    size = SampleSize(num_tokens=4096, num_tiles=13)

    def peak(number: int) -> int:
        return plan_memory(sizes, wanted.model_copy(update={"micro_batch_size": number}), size=size).peak_bytes

    for most in range(1, of_a_step + 1):
        gpu_bytes = int(peak(most) / 0.92) + 2**20
        plan = plan_memory(sizes, wanted, size=size, gpu_bytes=gpu_bytes)
        found = plan.config.samples_of_a_pass
        assert plan.fits
        assert -(-of_a_step // found) == -(-of_a_step // most)  # no more passes than with the most that fit
        assert found == 1 or -(-of_a_step // (found - 1)) > -(-of_a_step // found)  # and no larger than that takes
        assert plan.config.gradient_accumulation_steps() == -(-of_a_step // found)


def test_auto_is_1_where_the_gpu_is_not_known_or_too_small(sizes, config):
    wanted = config.model_copy(update={"micro_batch_size": "auto"})
    assert plan_memory(sizes, wanted).config.samples_of_a_pass == 1
    small = plan_memory(sizes, wanted, gpu_bytes=GIB)
    assert small.config.samples_of_a_pass == 1
    assert not small.fits


def test_both_may_be_auto(sizes, config):
    wanted = config.model_copy(update={"micro_batch_size": "auto", "strategy": "auto", "global_batch_size": 32})
    size = SampleSize(num_tokens=300, num_tiles=1)
    plans = [plan_memory(sizes, wanted, size=size, gpu_bytes=gib * GIB) for gib in (80, 24)]
    assert all(plan.fits for plan in plans)
    assert plans[0].strategy == "zero2"
    assert plans[0].config.samples_of_a_pass == 8  # all of a worker's share


def test_the_largest_is_found_in_a_few_plans(sizes, config, monkeypatch):
    """Of a step of 65,536 samples each size was planned, for a minute."""
    planned = []
    monkeypatch.setattr(
        memory, "plan_memory", lambda *given, **named: planned.append(1) or plan_memory(*given, **named)
    )
    wanted = config.model_copy(update={"micro_batch_size": "auto", "strategy": "zero2", "global_batch_size": 2**16})
    size = SampleSize(num_tokens=300, num_tiles=1)
    most = memory.choose_micro_batch(sizes, wanted, "zero2", 24 * GIB, size)
    assert len(planned) < 20
    assert plan_memory(sizes, wanted.model_copy(update={"micro_batch_size": most}), size=size, gpu_bytes=24 * GIB).fits


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "all", "true", "null"])
def test_other_micro_batches_are_refused(value):
    with pytest.raises(UserError, match=r"1 wrong value\(s\):\n  micro_batch_size: "):
        TrainConfig.load([DEMO, f"micro_batch_size={value}"])


@pytest.fixture
def logged(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    return caplog


def test_the_plan_is_for_the_largest_sample_of_the_data_set(config, logged):
    plan = log_plan(config, DATA_MANIFEST, 24 * GIB)
    assert plan.size.num_tokens < 100
    assert plan.size == SampleSize(plan.size.num_tokens, num_tiles=1, num_objects=1)
    assert f"for the largest sample of this data set: 2 sample(s) of {plan.size.num_tokens} tokens" in logged.text
    configured = plan_memory(plan.sizes, config)
    assert configured.peak_bytes > plan.peak_bytes
    beside = re.search(r"peak with 4096 tokens \(pipeline\.max_length\) +([\d.]+) GiB", logged.text)
    assert beside[1] == f"{configured.peak_bytes / GIB:.2f}"
    assert not [record for record in logged.records if record.levelno >= logging.WARNING]


def test_of_an_older_data_set_the_plan_is_for_what_the_config_lets_through(config, logged):
    older = {key: value for key, value in DATA_MANIFEST.items() if key != "sample_kinds"}
    plan = log_plan(config, older, 24 * GIB)
    assert (plan.size.num_tokens, plan.num_samples) == (4096, 9)
    assert "for the longest sequence that the config lets through: 2 sample(s) of 4096 tokens" in logged.text
    assert "peak with" not in logged.text
    (warning,) = [record.getMessage() for record in logged.records if record.levelno >= logging.WARNING]
    assert re.search(r"the 4096 tokens of pipeline\.max_length .* older version.* Run jobs\.prepare again", warning)


@pytest.mark.parametrize(("gpu_bytes", "is_told"), [(None, True), (24 * GIB, False)])
def test_a_plan_made_where_no_gpu_is_says_that_auto_is_1_for_that(config, logged, gpu_bytes, is_told):
    log_plan(config.model_copy(update={"micro_batch_size": "auto"}), DATA_MANIFEST, gpu_bytes)
    assert ("micro_batch_size=auto is 1 in this plan, since the memory" in logged.text) == is_told


def test_without_a_size_the_longest_sequence_is_what_is_planned_for(sizes, config):
    short = config.model_copy(update={"pipeline": config.pipeline.model_copy(update={"max_length": 512})})
    assert plan_memory(sizes, config).size.num_tokens == 4096
    assert plan_memory(sizes, short).peak_bytes < plan_memory(sizes, config).peak_bytes


def test_the_table_says_all_and_its_parts_add_up(sizes, config):
    plan = plan_memory(sizes, config, gpu_bytes=24 * GIB, num_samples=100, free_bytes=MIB)
    text = render_plan(plan)
    assert f"{sizes.num_parameters:,}" in text
    assert f"{100 * sizes.num_trained / sizes.num_parameters:.2f} %" in text
    assert "100 samples x 16 repeats x 1 epochs = 400 steps" in text
    assert "NOT ENOUGH" in text
    peak = float(re.search(r"peak +([\d.]+) GiB of 24\.00 GiB: fits", text)[1])
    lines = text[text.index("memory of each") : text.index("  peak")].splitlines()[1:]
    assert sum(float(line.split()[-2]) for line in lines) == pytest.approx(peak, abs=0.005 * (len(lines) + 1))


@pytest.mark.parametrize(
    ("settings", "num_kept", "most_at_once"),
    [
        ({"save_every_steps": 500}, 1, 1),  # of 400 steps, at the end
        ({"save_every_steps": 150}, 3, 3),
        ({"save_every_steps": 100, "keep_checkpoints": 2, "keep_best": 1}, 3, 4),
        ({"save_every_steps": 10}, 6, 7),
    ],
)
def test_no_more_checkpoints_are_planned_than_the_run_saves(sizes, config, settings, num_kept, most_at_once):
    config = config.model_copy(update=settings)
    each = plan_memory(sizes, config).checkpoint_bytes
    enough = plan_memory(sizes, config, num_samples=100, free_bytes=most_at_once * each)
    assert f"checkpoints: {num_kept} kept" in render_plan(enough)
    assert "free: enough" in render_plan(enough)
    assert "NOT ENOUGH" in render_plan(replace(enough, free_bytes=most_at_once * each - 1))
    assert "checkpoints: " + str(config.keep_checkpoints + config.keep_best) in render_plan(plan_memory(sizes, config))


def _trainable_model(config: ModelConfig):
    model, processor = build_model(config, torch.bfloat16)
    make_trainable(model, processor, config.trainable)
    return model


def _kept_bytes(model, forward) -> int:
    """What a forward pass keeps for the backward pass, weights not counted."""
    weights, sizes = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    assert result is not None  # alive until here, as in a training step
    return sum(sizes.values())


def _with_sam2(sizes, grounding_config):
    architecture = type(sizes.architecture)(grounding_config=grounding_config)
    return replace(sizes, processor=Sa2VAProcessor(architecture, sizes.processor.tokenizer))


def _with_small_trunk(grounding_config):
    small = {"embed_dim": 16, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3]}
    return {
        **grounding_config,
        "trunk": {**grounding_config["trunk"], **small},
        "neck": {**grounding_config["neck"], "backbone_channel_list": [128, 64, 32, 16]},
    }


def test_the_measured_peak_stands_beside_the_plan_of_what_the_run_ended_with(tmp_path, sizes, caplog, monkeypatch):
    """The second micro batch fitted, half of the planned one, and one of two workers was left."""
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    settings = ("use_gpu=true", "global_batch_size=32", "strategy=zero2")
    config = run_config(tmp_path / "runs", *settings, "micro_batch_size=16", "num_workers=2")
    plan = plan_memory(sizes, config.model_copy(update={"strategy": "auto"}), gpu_bytes=140 * GIB)
    halved = run_config(tmp_path / "runs", *settings, "micro_batch_size=8", "num_workers=1")
    metrics = {"memory/peak_gib": 1.5}
    uri = save(tmp_path / "local", 30, halved, world_size=1, metrics=metrics)
    log_measured_peak(plan, read_stored_checkpoint(uri))
    planned_gib = plan_memory(sizes, halved).allocated_bytes / GIB
    assert plan.strategy == "zero2"
    assert f"{planned_gib:.1f}" != f"{plan.allocated_bytes / GIB:.1f}"
    assert caplog.messages[-1] == (
        f"tensors took 1.5 GiB of a GPU, planned for micro batches of 8 of the largest sample: {planned_gib:.1f} GiB"
    )
