"""What a manifest says of its samples' sizes and phrases."""

import json

import pytest

from sa2va_ray.data.sample_kinds import KINDS, SampleKind, distinct_kinds, read_kinds
from sa2va_ray.manifest import DamagedError

VESSELS = ("blood vessels",)


def test_each_kind_is_there_once_whatever_the_order_of_the_samples():
    kinds = [SampleKind(64, 64, VESSELS), SampleKind(32, 64, VESSELS), SampleKind(64, 64, ("artery", "vein"))]
    expected = [SampleKind(32, 64, VESSELS), SampleKind(64, 64, ("artery", "vein")), SampleKind(64, 64, VESSELS)]
    assert distinct_kinds(3 * kinds) == distinct_kinds(kinds[::-1]) == expected


def test_of_many_lists_of_phrases_the_longest_are_kept_for_each_size():
    free_texts = [SampleKind(64, 64, ("x" * length,)) for length in range(1, 200)]
    many_objects = [SampleKind(64, 64, tuple("abcdefgh"[:number])) for number in range(2, 9)]
    kept = distinct_kinds([*free_texts, *many_objects, SampleKind(32, 32, VESSELS)])
    assert SampleKind(32, 32, VESSELS) in kept
    assert set(many_objects) | set(free_texts[-16:]) < set(kept)
    assert len(kept) == 1 + 16 + len(many_objects)  # the most objects after these are one, and its longest are kept


def test_a_manifest_gives_back_what_was_written():
    kinds = [SampleKind(32, 64, VESSELS), SampleKind(64, 64, ("artery", "vein"))]
    counts = {"train": {"samples": 8}, "val": {"samples": 0}}
    listed = {"train": [kind._asdict() for kind in kinds], "val": []}
    manifest = json.loads(json.dumps({KINDS: listed, "counts": counts}))
    assert read_kinds(manifest, "train") == kinds
    assert read_kinds(manifest, "val") == []
    assert read_kinds({"counts": {}}, "train") is None


def test_length_is_that_of_what_tokens_are_made_of():
    """A Chinese phrase of 30 characters has 140 tokens, an English one of 40 has 89, with what stands around them."""
    english = [SampleKind(64, 64, (f"superficial capillary plexus region {number:03}",)) for number in range(40)]
    chinese = SampleKind(64, 64, (30 * "\u8840",))
    assert chinese in distinct_kinds([*english, chinese])
    one_long = [SampleKind(64, 64, (300 * "b" + str(number),)) for number in range(16)]
    many_short = [SampleKind(64, 64, (*5 * ("bcd",), f"b{number}")) for number in range(16)]
    both = SampleKind(64, 64, 5 * (59 * "c",))
    assert both in distinct_kinds([*one_long, *many_short, both])


@pytest.mark.parametrize(
    "kinds",
    [
        None,
        {},
        {"train": []},
        {"train": [{"height": 0, "width": 64, "phrases": ["a"]}]},
        {"train": [{"height": -64, "width": 64, "phrases": ["a"]}]},
        {"train": [{"height": "64", "width": 64, "phrases": ["a"]}]},
        {"train": [{"height": 10**12, "width": 64, "phrases": ["a"]}]},
        {"train": [{"height": float("nan"), "width": 64, "phrases": ["a"]}]},
        {"train": [{"height": 64, "width": 64, "phrases": [None]}]},
        {"train": [{"height": 64, "width": 64, "phrases": "blood vessels"}]},
        {"train": [{"height": 64, "width": 64}]},
        {"train": [7]},
    ],
)
def test_what_lists_no_sizes_and_phrases_is_damage(kinds):
    with pytest.raises(DamagedError, match="does not list the sizes and phrases of its split 'train'"):
        read_kinds({KINDS: kinds, "counts": {"train": {"samples": 8}}}, "train")
