"""A model with random weights is as one that was loaded."""

import pytest
import torch

from sa2va_ray.config import UserError
from sa2va_ray.models.build import PRECISIONS, build_model, random_architecture


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
