"""The page of a run: what a person reads on it, and that it needs nothing but itself."""

import re

import numpy as np
import pytest

from sa2va_ray.pictures.sheet import Picture
from sa2va_ray.train.watch.page.run_page import render_run_page
from sa2va_ray.train.watch.page.state import RunState

PARTS = [
    {"name": "LoRA adapters", "num_parameters": 100, "num_trained": 100},
    {"name": "vision encoder", "num_parameters": 900, "num_trained": 0},
]
ATTEMPT = {
    "started": "2026-11-29T06:00:00+00:00",
    "step": 0,
    "num_workers": 2,
    "devices": ["NVIDIA H200"] * 2,
    "git_commit": "abc",
    "code_sha256": "c" * 64,
    "versions": {"torch": "2.13.0"},
    "changes": [],
}


def facts(state, message="", **others):
    known = {
        "name": "run",
        "config": {"name": "run", "model": {"trainable": {"lora_rank": 8}}},
        "num_steps": 100,
        "parameters": PARTS,
        "state": {"name": state, "step": 40, "message": message, "written": "2026-11-29T06:55:01+00:00"},
    }
    begun = {"attempts": [ATTEMPT], "warnings": [], "precision": "bf16", "seed": 0, "data_sha256": "d" * 64}
    return known | ({} if state == RunState.WAITING else begun) | others


def rows(last=40):
    training = [
        {
            "step": step,
            "train/loss": 2 - step / last,
            "train/loss_language": 0.5,
            "train/loss_mask": 1.5 - step / last,
            "train/lr": 2e-5,
            "train/grad_norm": 1.5,
            "throughput/samples_per_s": 3.5,
            "time/left_s": 600.0,
        }
        for step in range(1, last + 1)
    ]
    scores = {"val/dice": 0.5, "val/dice_low": 0.4, "val/dice_high": 0.6, "val/cldice": 0.55, "val/loss": 1.2}
    return [*training, {"step": last // 2, **scores}, {"step": last, **scores, "val/dice": 0.7}]


def render(*args, history=(), pictures=()):
    return render_run_page(facts(*args), history, pictures).decode()


@pytest.mark.parametrize("state", RunState)
def test_each_state_says_what_it_is_and_only_a_run_that_goes_on_is_loaded_anew(state):
    page = render(state)
    words = {"ended": "Ended well", "failed": "Ended with an error"}.get(state, state.capitalize())
    assert f"<strong>{words}</strong>" in page
    assert ('http-equiv="refresh" content="15"' in page) == state.goes_on


def test_it_needs_no_other_file_network_or_script():
    pictures = [Picture("0a1b", np.zeros((4, 6, 3), np.uint8))]
    page = render(RunState.TRAINING, history=rows(), pictures=pictures)
    assert "default-src 'none'" in page
    assert not re.search(r"<script|https?://|<link|@import|url\(", page)
    assert page.count("data:image/webp;base64,") == 1


def test_numbers_curves_and_what_is_trained():
    page = render(RunState.TRAINING, history=rows())
    assert re.search(r"Time left</dt><dd>0:10:00", page)
    assert re.search(r"Dice</dt><dd>0\.700 <small>0\.400 to 0\.600, the best so far", page)
    titles = re.findall(r"<h3>(.*?)</h3>", page)
    assert titles == ["Loss", "Validation", "Parts of the loss", "Learning rate", "Gradient", "Throughput"]
    assert page.count("<polygon") == 1  # the interval of Dice; clDice has none
    assert re.search(r"<strong>All</strong></th><td class=\"n\">1,000</td><td class=\"n\">100</td>.*10 %", page)
    assert "2 x NVIDIA H200" in page


def test_a_score_that_was_better_before_says_so():
    history = [{"step": 10, "val/dice": 0.8, "val/cldice": 0.6}, {"step": 20, "val/dice": 0.6, "val/cldice": 0.7}]
    page = render(RunState.TRAINING, history=history)
    assert re.search(r"Dice</dt><dd>0\.600 <small>best: 0\.800 after step 10", page)


def test_texts_are_escaped_and_warnings_stand_the_newest_first():
    warnings = [{"step": 10, "message": "first"}, {"step": 20, "message": "<second>"}]
    page = render_run_page(facts(RunState.FAILED, "<cause>", warnings=warnings), [], []).decode()
    assert "&lt;cause&gt;" in page
    assert page.index("&lt;second&gt;") < page.index("first")


def test_a_long_run_draws_as_many_points_as_can_be_seen():
    page = render(RunState.TRAINING, history=rows(last=5000))
    assert max(len(points.split()) for points in re.findall(r'<polyline[^>]*points="([^"]*)"', page)) <= 160
    assert len(page) < 100_000


def test_values_that_are_none_are_left_out():
    history = [
        {"step": 1, "train/loss": float("nan"), "train/lr": 0.0},
        {"step": 2, "train/loss": 1.0, "train/lr": 0.0},
    ]
    assert "nan" not in render(RunState.TRAINING, history=history).lower().split("curves")[1]
