"""Which threshold, and which clean-up, from curves that are known."""

import numpy as np
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.evaluate.config import CalibrateConfig
from sa2va_ray.evaluate.passes.cleanup_grid import CLEANUPS, CleanupScores, choose_cleanup
from sa2va_ray.evaluate.statistics.choose import choose_threshold, rows_of_objective, warn_of_choice
from sa2va_ray.evaluate.statistics.summary import sweep_patients
from sa2va_ray.metrics import THRESHOLDS, probability_counts, quantise
from sa2va_ray.metrics.patients import PatientCurves
from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.telemetry import LOGGER


def config(**values) -> CalibrateConfig:
    return CalibrateConfig.parse({"model": "m", "data_uri": "d", **values})


def curves(**means: np.ndarray) -> PatientCurves:
    """Curves of two patients, one above the mean and one below."""
    return PatientCurves(["a", "b"], {name: np.stack([values + 0.01, values - 0.01]) for name, values in means.items()})


FALLING = np.linspace(0.95, 0.0, len(THRESHOLDS))


def test_the_greatest_mean_and_the_middle_of_equal_ones():
    peak = np.exp(-((THRESHOLDS - 0.3) ** 2))
    assert THRESHOLDS[choose_threshold(curves(dice=peak), config())] == pytest.approx(0.3, abs=1 / 512)
    plateau = np.minimum(np.round(peak, 3), 0.98)
    (equal,) = np.nonzero(plateau == 0.98)
    assert choose_threshold(curves(dice=plateau), config()) == equal[len(equal) // 2]


def test_the_mean_is_over_patients_and_not_over_images():
    """Three images of one patient have Dice 1 above 0.7 and 10 / 11 below, one of another 3 / 4 and 18 / 19."""
    truth = np.arange(100)[None] < 50
    late = np.where(truth, 0.8, np.where(np.arange(100) < 60, 0.7, 0.1)).astype(np.float32)
    early = np.where(np.arange(100) < 45, np.where(np.arange(100) < 30, 0.8, 0.3), 0.1).astype(np.float32)[None]
    rows = [
        {"patient_id": patient, "sample_id": sample, "counts": probability_counts(quantise(probabilities), truth)}
        for patient, sample, probabilities in (("a", "1", late), ("a", "2", late), ("a", "3", late), ("b", "4", early))
    ]
    found = sweep_patients(rows, beta=1.0)
    assert found.patients == ["a", "b"]
    assert THRESHOLDS[choose_threshold(found, config())] < 0.3
    over_images = np.mean([sweep_patients([row], 1.0).values["dice"][0] for row in rows], axis=0)
    assert THRESHOLDS[over_images.argmax()] > 0.7


def test_a_recall_target_takes_the_highest_threshold_that_reaches_it():
    place = choose_threshold(curves(recall=FALLING), config(objective="recall", recall_target=0.8))
    assert FALLING[place] >= 0.8 > FALLING[place + 1]


def test_a_target_that_cannot_be_reached_is_an_error_with_the_numbers():
    with pytest.raises(UserError, match=r"mean recall of 0\.99: the lowest, 0\.0039, gives 0\.9500"):
        choose_threshold(curves(recall=FALLING), config(objective="recall", recall_target=0.99))


def test_false_alarms_do_not_lower_the_recall_that_is_asked_for():
    truth = np.zeros((8, 8), bool)
    truth[2:4] = True
    levels = quantise(np.where(truth, 0.6, 0.4).astype(np.float32))
    rows = [
        {"patient_id": "a", "sample_id": "1", "is_negative": False, "counts": probability_counts(levels, truth)},
        {"patient_id": "b", "sample_id": "2", "is_negative": True, "counts": probability_counts(levels, truth & False)},
    ]
    asked = config(objective="recall", recall_target=1.0)
    chosen = choose_threshold(sweep_patients(rows_of_objective(rows, asked)), asked)
    assert 0.59 < THRESHOLDS[chosen] < 0.6
    assert rows_of_objective(rows, config()) == rows


def test_fbeta_prefers_recall_more_the_greater_beta_is():
    random = np.random.default_rng(0)
    truth = random.random((50, 50)) < 0.2
    probabilities = np.clip(random.normal(0.35 + 0.2 * truth, 0.15), 0, 1).astype(np.float32)
    counts = probability_counts(quantise(probabilities), truth)
    rows = [{"patient_id": "a", "sample_id": "1", "counts": counts}]
    chosen = [
        choose_threshold(sweep_patients(rows, beta), config(objective="fbeta", beta=beta)) for beta in (0.5, 1, 2)
    ]
    assert chosen[0] > chosen[1] > chosen[2]
    assert chosen[1] == choose_threshold(sweep_patients(rows, 1.0), config())


@pytest.mark.parametrize(
    "values", [{"objective": "fbeta"}, {"objective": "recall"}, {"beta": 2}, {"objective": "recall", "beta": 2}]
)
def test_an_objective_without_its_number_is_refused(values):
    with pytest.raises(UserError, match="go together"):
        config(**values)


def scores(dice: dict[int, float], recall: dict[int, float], dice_of_all: dict[int, float] | None = None):
    def column(known: dict[int, float]) -> np.ndarray:
        return np.array([[known.get(place, 0.5) for place in range(len(CLEANUPS))]])

    found = PatientCurves(["a"], {"dice": column(dice), "fbeta": column(dice), "recall": column(recall)})
    of_all = found if dice_of_all is None else PatientCurves(["a", "b"], {"dice": column(dice_of_all)})
    return CleanupScores(found, of_all)


def test_cleanups():
    assert CLEANUPS[0] == CleanupConfig()
    assert choose_cleanup(scores({}, {}), config()) == 0  # nothing is gained, so nothing is done
    assert choose_cleanup(scores({7: 0.6}, {}), config()) == 7
    target = config(objective="recall", recall_target=0.8)
    keeps = {0: 0.81, 3: 0.85, 7: 0.7}
    assert choose_cleanup(scores({0: 0.5, 3: 0.55, 7: 0.6}, keeps), target) == 3


def test_a_cleanup_that_takes_false_alarms_away_counts_beside_a_recall():
    """Where the object is, doing nothing is as good; elsewhere an empty mask is right."""
    target = config(objective="recall", recall_target=0.8)
    recall = dict.fromkeys(range(len(CLEANUPS)), 0.9)
    assert choose_cleanup(scores({0: 0.7, 6: 0.7}, recall, {0: 0.4, 6: 0.8}), target) == 6


@pytest.mark.parametrize(("threshold", "is_told"), [(THRESHOLDS[0], True), (0.5, False), (THRESHOLDS[-1], True)])
def test_a_threshold_at_an_end_of_its_range_is_warned_of(threshold, is_told, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    warn_of_choice(float(threshold), num_patients=40)
    assert (f"the threshold {threshold:.4f} is an end of its range" in caplog.text) == is_told
