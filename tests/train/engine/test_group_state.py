"""The state of groups as two ranks see it that share a small model by ZeRO-2 and by ZeRO-3."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.deepspeed import build_engine
from sa2va_ray.train.engine.group_state import group_states
from tests.train import ranks

pytestmark = pytest.mark.cluster  # a group of processes of torch.distributed

STEPS = 3


class Toy(nn.Module):
    """Sizes that two ranks cannot share evenly, and a group that its own forward keeps from learning."""

    dtype = torch.float32
    config = SimpleNamespace(grounding_size=64)

    def __init__(self):
        super().__init__()
        self.mlp1 = nn.Linear(7, 3)
        self.text_hidden_fcs = nn.Linear(3, 1)
        # What `build_engine` looks for; empty here.
        self.vision_model = nn.Identity()
        self.grounding_encoder = nn.Module()
        self.grounding_encoder.sam2_model = nn.Module()
        self.grounding_encoder.sam2_model.image_encoder = nn.Module()
        self.grounding_encoder.sam2_model.image_encoder.trunk = trunk = nn.Module()
        trunk.window_spec, trunk.patch_embed, trunk.blocks = (8,), nn.Module(), nn.ModuleList()
        trunk.patch_embed.proj = nn.AvgPool2d(4, stride=(4, 4))
        self.language_model = nn.Module()
        self.language_model.model = nn.Module()
        self.language_model.model.layers = nn.ModuleList()
        self.language_model.model.frozen = nn.Linear(7, 7).requires_grad_(False)

    def forward(self, x):
        return (
            self.mlp1(self.language_model.model.frozen(x)).square().mean()
            + 0.0 * self.text_hidden_fcs(torch.zeros(1, 3)).sum()
        )


def follow(folder: Path) -> None:
    rank = dist.get_rank()
    for strategy in ("zero2", "zero3"):
        config = TrainConfig(
            name="n", data_uri="d", runs_uri="r", model={"architecture": {}}, use_gpu=False, strategy=strategy
        )
        torch.manual_seed(0)
        engine = build_engine(Toy(), config, "fp32")
        states = [group_states(engine, has_stepped=False)]
        for step in range(STEPS):
            engine.backward(engine(torch.full((2, 7), float(rank + step))))
            engine.step()
            states.append(group_states(engine, has_stepped=True))
        told = [{group: (state.checksum, state.squares) for group, state in each.items()} for each in states]
        (folder / f"{strategy}-{rank}.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    ranks.run_ranks(follow, 2, folder)
    return lambda strategy, rank: json.loads((folder / f"{strategy}-{rank}.json").read_text())


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_what_learns_and_what_does_not(told, strategy):
    states = told(strategy, 0)
    assert told(strategy, 1) == states
    assert set(states[0]) == {"projector", "text_hidden_fcs"}
    projector = [state["projector"] for state in states]
    assert len({checksum for checksum, _ in projector}) == 1 + STEPS
    assert [squares for _, squares in projector] == sorted({squares for _, squares in projector})
    assert projector[0][1] == 0.0
    assert [state["text_hidden_fcs"][1] for state in states] == [0.0] * (1 + STEPS)


def test_the_checksum_does_not_depend_on_how_the_weights_are_shared(told):
    assert told("zero2", 0)[0]["projector"][0] == told("zero3", 0)[0]["projector"][0]
