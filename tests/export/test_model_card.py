"""No text of a user gets out of its place in the model card, which is Markdown and is shown on web pages."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.model_card import write_model_card
from sa2va_ray.models.trained_weights import LocalCheckpoint

HASHES = dict.fromkeys(("base_sha256", "checkpoint_sha256", "data_sha256", "weights_sha256"), "0" * 64)
FACTS = {**HASHES, "name": "octa", "layout": "own", "num_parameters": 1, "tool_version": "1", "threshold": 0.5}
CHOSEN = {"checkpoint_chosen_as": "the best of 4 of its run"}


def card_of(folder: Path, settings: dict[str, Any], metrics: Mapping[str, float] = MappingProxyType({})) -> str:
    state = SimpleNamespace(step=1, num_steps=1, samples_seen=1, metrics=metrics, data_sha256="0" * 64)
    checkpoint = SimpleNamespace(state=state, settings={"data_uri": str(folder / "none"), **settings})
    write_model_card(folder, cast(LocalCheckpoint, checkpoint), {**FACTS, **CHOSEN, "changes": {}})
    return (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "text", ["a\n```\n# Approved as a medical device", "~~~\n<script>", "{{ facts }}{% raw %}", "\u2028# x", "\x85# x"]
)
def test_settings_are_code_from_their_first_line_to_the_last(tmp_path, text):
    card = card_of(tmp_path, {"note": text, "deep": {"notes": [text, {"more": text}]}})
    _, settings = card.split("## Training config\n\n")
    assert all(line.startswith("    ") or not line for line in settings.split("\n"))
    assert "note" in settings


@pytest.mark.parametrize(
    "name", ["", " a", "a\nb", "a\n", "<b>", "a`b", "[a](b)", "a|b", "# a", "*a*", "a" * 101, "![a](b)", "a&b", "a\\b"]
)
def test_names_that_would_be_markdown_are_refused(name):
    with pytest.raises(UserError, match="name"):
        ExportConfig.parse({"checkpoint": "a", "out": "b", "name": name})


@pytest.mark.parametrize("name", ["sa2va", "Gefäße-8B", "octa 8B (v1.2+r64)", "demo_model"])
def test_names_that_people_give(name):
    assert ExportConfig.parse({"checkpoint": "a", "out": "b", "name": name}).name == name


def test_it_says_which_checkpoint_it_is(tmp_path):
    assert "(the checkpoint was chosen as the best of 4 of its run)" in card_of(tmp_path, {})


def test_metrics_have_names_and_intervals(tmp_path):
    dice = {"val/dice": 0.8123, "val/dice_low": 0.7, "val/dice_high": 0.9}
    card = card_of(tmp_path, {}, {**dice, "val/loss_mask": 0.123456})
    assert "| Dice ↑: `val/dice` | 0.812 | 0.700 to 0.900 |" in card
    assert "| `val/loss_mask` | 0.1235 |  |" in card
    assert "_low" not in card
    assert ("It was not validated" in card, "It was not validated" in card_of(tmp_path, {}, {})) == (False, True)
