import random

from sa2va_ray.labelling.ranking import Candidate, number_patients, rank
from sa2va_ray.predict.job.items import ImageItem
from sa2va_ray.predict.job.sources import SourceFile


def candidate(patient, id, entropy=0.5, disagreement=None):
    item = ImageItem(SourceFile("image", f"/{id}.png", f"{id}.png"), id, "0" * 64)
    return Candidate(item, patient, {"entropy": entropy, "disagreement": disagreement})


def ids(candidates):
    return [each.id for each in rank(candidates)]


def test_the_uncertainty_is_the_mean_of_what_is_known():
    assert candidate("p", "a", 0.4).uncertainty == 0.4
    assert candidate("p", "a", 0.4, 0.2).uncertainty == 0.30000000000000004
    assert candidate("p", "a", None).uncertainty == 1


def test_no_patient_comes_twice_before_all_came_once():
    many = [candidate("busy", f"b{place}", 0.9 - place / 100) for place in range(20)]
    others = [candidate(f"quiet{place}", f"q{place}", 0.1 + place / 100) for place in range(3)]
    assert ids([*many, *others])[:5] == ["b0", "q2", "q1", "q0", "b1"]


def test_within_a_turn_the_least_sure_comes_first():
    assert ids([candidate("p", "a", 0.2), candidate("q", "b", 0.8), candidate("r", "c", None)]) == ["c", "b", "a"]


def test_the_order_does_not_depend_on_that_of_the_images():
    images = [candidate(f"p{place % 4}", f"{place:02d}", round(place % 3 / 3, 2)) for place in range(24)]
    expected = ids(images)
    for seed in range(5):
        assert ids(random.Random(seed).sample(images, len(images))) == expected


def test_patients_are_numbers_in_the_order_of_the_queue():
    ranked = rank([candidate("Doe", "a", 0.2), candidate("Mueller", "b", 0.8), candidate("Doe", "c", 0.1)])
    assert number_patients(ranked) == {"Mueller": 1, "Doe": 2}
