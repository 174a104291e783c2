"""How large a batch may be: what four images take beside one, of what is free, and what a trial shows."""

import pytest
import torch

from sa2va_ray.predict import batch_room

MIB = 2**20


class Gpu:
    """Its peaks and what is free, in bytes: a batch takes `base` and `each` for an image."""

    def __init__(self, monkeypatch, free: int, base: int, each: int, beyond_four: int = 0):
        self.free, self.base, self.each, self.beyond_four, self.images = free, base, each, beyond_four, 0
        self.tried: list[int] = []
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 7 * MIB)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 9 * MIB)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 4096 * MIB))
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 7 * MIB + self.taken(self.images))

    def taken(self, images: int) -> int:
        return self.base + images * self.each + max(0, images - 4) * self.beyond_four

    def predict(self, queries) -> None:
        self.images = len(queries)
        self.tried.append(self.images)
        if self.taken(self.images) > self.free:
            raise torch.OutOfMemoryError


@pytest.mark.parametrize(("free", "base", "each"), [(1000, 100, 10), (1000, 0, 30), (100, 60, 9), (900, 850, 1)])
def test_the_largest_batch_that_fits_in_nine_tenths(monkeypatch, free, base, each):
    gpu = Gpu(monkeypatch, free * MIB, base * MIB, each * MIB)
    most = batch_room.images_that_fit(gpu.predict, "a", torch.device("cpu"), wanted=16)
    assert most >= 1
    assert gpu.taken(most) <= 0.9 * gpu.free or most == 1
    assert gpu.taken(most + 1) > 0.9 * gpu.free


def test_one_where_four_have_no_room(monkeypatch):
    assert batch_room.images_that_fit(Gpu(monkeypatch, 100, 0, 30).predict, "a", torch.device("cpu"), 16) == 1


@pytest.mark.parametrize(
    ("beyond_four", "wanted", "most", "tried"),
    [
        (0, 16, 90, [16]),  # nothing contradicts the estimate, which reaches further than what is wanted
        (55, 16, 90, [16]),
        (40, 32, 16, [32, 16]),
        (71, 16, 8, [16, 8]),
        (10_000, 16, 4, [16, 8]),  # four are known to fit
        (10_000, 4, 90, [4]),  # more than was wanted is only estimated
    ],
)
def test_what_fails_in_a_trial_is_halved(monkeypatch, beyond_four, wanted, most, tried):
    gpu = Gpu(monkeypatch, 1000 * MIB, 0, 10 * MIB, beyond_four * MIB)
    assert batch_room.images_that_fit(gpu.predict, "a", torch.device("cpu"), wanted) == most
    assert gpu.tried[2:] == [each for each in tried if each > 4]


def test_a_process_that_may_have_a_share_has_no_more(monkeypatch):
    Gpu(monkeypatch, 4000 * MIB, 0, 1)
    assert batch_room.free_bytes(torch.device("cpu")) == 4000 * MIB
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 0.5)
    assert batch_room.free_bytes(torch.device("cpu")) == (2048 - 9) * MIB
