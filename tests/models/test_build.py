"""A model with random weights is as one that was loaded."""

import shutil

import pytest
import torch

from sa2va_ray.config import UserError
from sa2va_ray.export.model_files import write_model_files
from sa2va_ray.models.build import PRECISIONS, build_model, build_unfilled, random_architecture, read_architecture
from sa2va_ray.models.config import ModelConfig


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_take_the_precision_and_rotary_tables_keep_theirs(demo_architecture, precision):
    """Rounded to bfloat16, a table turns the token at place 300 by up to 300 x 2^-9 = 0.6 rad more or less than the
    exported model, whose tables are exact, turns it."""
    exact = build_model(demo_architecture)[0]
    model = build_model(demo_architecture, PRECISIONS[precision])[0]
    assert {tensor.dtype for tensor in model.state_dict().values()} == {PRECISIONS[precision]}
    tables = {name: table for name, table in exact.named_buffers() if name not in exact.state_dict()}
    assert tables
    for name, table in tables.items():
        torch.testing.assert_close(model.get_buffer(name), table, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"hidden": 3}, r"unknown key model\.architecture\.hidden; valid here: downsample_ratio"),
        ({"llm_config": "big"}, "No model has the sizes"),
        ({"llm_config": {"hidden_size": -5}}, "No model has the sizes"),
        ({"vision_config": {"hidden_size": 2.5}}, "No model has the sizes"),
    ],
)
def test_sizes_of_which_no_model_can_be_made_are_told(sizes, said):
    with pytest.raises(UserError, match=said):
        random_architecture(sizes)


def test_looking_at_sizes_draws_no_random_numbers(demo_architecture):
    state = torch.get_rng_state()
    random_architecture(demo_architecture.architecture)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unfilled_model_has_the_shapes_and_types_and_reads_no_weights(tmp_path, demo_architecture):
    model, processor = build_model(demo_architecture, torch.bfloat16)
    write_model_files(tmp_path, model.config, processor, "own")  # and no weights
    config = ModelConfig.parse({"base": {"source": str(tmp_path)}})
    with pytest.raises(UserError, match="lacks 1 of its 1 weight files"):
        build_model(config, torch.bfloat16)
    state = torch.get_rng_state()
    unfilled = build_unfilled(config, torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state)
    described = ({n: (t.shape, t.dtype) for n, t in each.state_dict().items()} for each in (model, unfilled))
    assert next(described) == next(described)
    stored = model.state_dict().keys()
    for (name, one), other in zip(model.named_buffers(), unfilled.buffers(), strict=True):
        assert name in stored or torch.equal(one, other)


def test_the_sizes_of_a_base_are_read_without_its_weights(parity, tmp_path):
    for file in parity.folder.iterdir():
        if file.suffix in (".json", ".txt") and "index" not in file.name:
            shutil.copyfile(file, tmp_path / file.name)
    base = {"source": str(tmp_path), "grounding_config": parity.grounding_config}
    architecture, tokenizer = read_architecture(ModelConfig.parse({"base": base}))
    assert architecture.llm_config.hidden_size == parity.loaded.model.config.llm_config.hidden_size
    assert len(tokenizer) == len(parity.loaded.processor.tokenizer)


def test_a_base_that_is_not_there_is_told_with_its_key(tmp_path):
    """A recipe names it, and who reads the message may never have."""
    with pytest.raises(UserError, match=r"^model\.base\.source: There is nothing at .*none"):
        read_architecture(ModelConfig.parse({"base": {"source": str(tmp_path / "none")}}))
