"""Warnings, on histories that are written out; the groups' states, from a real ZeRO-2 and ZeRO-3 engine."""

import math
import random

import pytest

from sa2va_ray.train.config import OptimConfig
from sa2va_ray.train.engine.group_state import GroupState
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.watch.health import GroupMonitor, LossMonitor, ValidationMonitor

BETA2 = 0.999
LOSSES = {"loss": 1.0, "loss_language": 0.4, "loss_mask": 0.5, "loss_dice": 0.1}


class Warnings(list):
    def __call__(self, step: int, message: str) -> None:
        self.append((step, message))


@pytest.fixture
def warnings():
    return Warnings()


class Groups:
    """Groups that learn, but for those without gradient and those without movement."""

    def __init__(self, *names, squares=0.0):
        self.states = {name: GroupState(checksum=1, squares=squares) for name in names}

    def step(self, dead=(), still=()):
        self.states = {
            name: GroupState(
                checksum=state.checksum + (name not in still),
                squares=BETA2 * state.squares + (0.0 if name in dead else (1 - BETA2) * 1e-4),
            )
            for name, state in self.states.items()
        }


def run(monitor, groups, steps, losses=LOSSES, **how):
    for step in steps:
        groups.step(**how)
        monitor.after_step(losses)
        if monitor.is_check_due(step):
            monitor.check(step, groups.states)


def test_groups_that_learn_are_left_in_peace(warnings):
    groups = Groups("lora of language_model", "mask_decoder")
    run(GroupMonitor(BETA2, 450, 0, groups.states, warnings), groups, range(1, 451))
    assert warnings == []


def test_a_group_that_never_had_a_gradient_is_warned_of_and_then_ends_the_run(warnings):
    groups = Groups("lora of language_model", "projector")
    monitor = GroupMonitor(BETA2, 450, 0, groups.states, warnings)
    run(monitor, groups, range(1, 20), dead=["projector"])
    [(step, message)] = warnings
    assert step == 10
    assert message.startswith("projector: the gradient was zero in each of the last 10 steps")
    with pytest.raises(RunStoppedError, match=r"projector: .* last 20 steps"):
        run(monitor, groups, [20], dead=["projector"])


def test_a_late_first_gradient_is_no_error(warnings):
    groups = Groups("projector")
    monitor = GroupMonitor(BETA2, 450, 0, groups.states, warnings)
    run(monitor, groups, range(1, 16), dead=["projector"])
    run(monitor, groups, range(16, 200))
    assert [step for step, _ in warnings] == [10]


def test_a_gradient_before_the_first_check_is_one(warnings):
    groups = Groups("projector")
    monitor = GroupMonitor(BETA2, 450, 0, groups.states, warnings)
    run(monitor, groups, range(1, 11))
    run(monitor, groups, range(11, 21), dead=["projector"])
    assert [step for step, _ in warnings] == [20]


def test_a_group_that_dies_later_is_warned_of_once(warnings):
    groups = Groups("projector")
    monitor = GroupMonitor(BETA2, 900, 0, groups.states, warnings)
    run(monitor, groups, range(1, 101))
    run(monitor, groups, range(101, 501), dead=["projector"])
    assert [step for step, _ in warnings] == [200]
    run(monitor, groups, range(501, 601))
    run(monitor, groups, range(601, 701), dead=["projector"])
    assert [step for step, _ in warnings] == [200, 700]


def test_after_a_resume_old_moments_do_not_hide_a_dead_group(warnings):
    groups = Groups("projector", squares=1.0)
    monitor = GroupMonitor(BETA2, 900, 300, groups.states, warnings)
    with pytest.raises(RunStoppedError, match="projector"):
        run(monitor, groups, range(301, 321), dead=["projector"])


def test_after_a_resume_gradients_far_smaller_than_before_count(warnings):
    groups = Groups("projector", squares=1e-1)  # a thousand times the new ones squared
    run(GroupMonitor(BETA2, 900, 300, groups.states, warnings), groups, range(301, 420))
    assert warnings == []


def test_weights_that_stay_are_warned_of(warnings):
    groups = Groups("projector", "mask_decoder")
    run(GroupMonitor(BETA2, 450, 0, groups.states, warnings), groups, range(1, 101), still=["projector"])
    [(step, message)] = warnings
    assert step == 10
    assert message.startswith("projector: no weight has changed in 10 steps")


def test_without_masks_the_mask_decoder_is_not_blamed(warnings):
    groups = Groups("lora of language_model", "mask_decoder")
    monitor = GroupMonitor(BETA2, 450, 0, groups.states, warnings)
    losses = {"loss": 0.4, "loss_language": 0.4, "loss_mask": 0.0, "loss_dice": 0.0}
    run(monitor, groups, range(1, 51), losses, dead=["mask_decoder"])
    [(step, message)] = warnings
    assert step == 10
    assert "mask losses were 0" in message


def validations(warnings, dices, losses, seg_shares=None):
    monitor = ValidationMonitor(warnings)
    for number, (dice, loss) in enumerate(zip(dices, losses, strict=True)):
        for noise in (-0.1, 0.1):
            monitor.after_step({"loss": loss + noise})
        seg_share = seg_shares[number] if seg_shares else 1.0
        monitor.after_validation(100 * (number + 1), {"val/dice": dice, "val/seg_share": seg_share})


def test_no_seg_is_warned_of_when_it_comes_and_when_it_comes_back(warnings):
    validations(warnings, [0.5] * 5, [1.0] * 5, seg_shares=[0.0, 0.4, 0.9, 0.2, 0.1])
    assert [step for step, _ in warnings] == [100, 400]
    assert warnings[0][1].startswith("[SEG] was produced for 0% of the validation images")


@pytest.mark.parametrize("alarms", [{}, {"val/false_alarm_share": 0.0}])
def test_that_a_silent_model_comes_last_is_told_where_there_are_images_without_the_object(warnings, alarms):
    monitor = ValidationMonitor(warnings)
    monitor.after_step(LOSSES)
    monitor.after_validation(100, {"val/dice": 0.6, "val/seg_share": 0.0, **alarms})
    [(_, message)] = warnings
    assert ("comes last in best_metric" in message) == bool(alarms)


def test_masks_without_a_right_pixel_are_warned_of_where_seg_is_there(warnings):
    validations(warnings, [0.0, 0.0, 0.0, 0.3], [1.0] * 4, seg_shares=[0.0, 1.0, 1.0, 1.0])
    assert [(step, message.startswith("No validation mask")) for step, message in warnings] == [
        (100, False),
        (200, True),
    ]


def test_falling_validation_and_loss_is_overfitting(warnings):
    validations(warnings, [0.70, 0.75, 0.74, 0.72, 0.71], [2.0, 1.5, 1.2, 1.0, 0.9])
    [(step, message)] = warnings
    assert step == 500
    assert "val/dice 0.75 -> 0.74 -> 0.72 -> 0.71, mean training loss 1.5 -> 1.2 -> 1 -> 0.9" in message


@pytest.mark.parametrize(
    ("dices", "losses"),
    [
        ([0.75, 0.74, 0.72], [1.5, 1.2, 1.0]),  # two falls may be chance
        ([0.75, 0.74, 0.76, 0.72], [1.5, 1.2, 1.0, 0.9]),
        ([0.75, 0.74, 0.73, 0.72], [1.0, 1.1, 1.2, 1.3]),  # both get worse: that is no overfitting
    ],
)
def test_else_it_is_not(warnings, dices, losses):
    validations(warnings, dices, losses)
    assert warnings == []


def losses_of(warnings, curve, num_steps=1000, noise=0.2):
    random.seed(0)
    monitor = LossMonitor(OptimConfig(), num_steps, warnings)
    for step in range(1, num_steps + 1):
        loss = curve(step) + random.gauss(0, noise)
        monitor.after_step(step, {"loss": loss, "loss_language": 0.1, "loss_mask": loss - 0.1})


def test_a_loss_that_stays_is_warned_of_after_the_warm_up(warnings):
    losses_of(warnings, lambda step: 2.0)
    assert warnings[0][0] == 200  # 100 steps of warm-up, two windows of 50
    assert "loss_language 0.1 -> 0.1" in warnings[0][1]
    assert "jobs.preview" in warnings[0][1]


def test_a_loss_that_rises_is_warned_of(warnings):
    losses_of(warnings, lambda step: 1.0 + step / 1000)
    assert [step for step, _ in warnings] == [200]


@pytest.mark.parametrize(
    "curve",
    [
        lambda step: 2.0 * math.exp(-step / 300),
        lambda step: 10.0 if step < 10 else 1.0,  # all of it falls in the first window
        lambda step: max(2.0 - step / 200, 1.0),  # and then stays, as it should
    ],
)
def test_a_loss_that_has_fallen_is_not(warnings, curve):
    losses_of(warnings, curve)
    assert warnings == []


@pytest.mark.parametrize(("fall", "stays"), [(0.06, True), (0.1, False)])
def test_what_is_within_the_noise_of_two_windows_is_no_fall(warnings, fall, stays):
    """Of a loss that is 0.2 above and below its mean, 0.04 is the standard error of the difference of two means."""
    losses_of(warnings, lambda step: 2.0 - fall * (step > 50) + 0.2 * (-1) ** step, noise=0.0)
    assert bool(warnings) == stays
