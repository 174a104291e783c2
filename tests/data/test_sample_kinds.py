"""What a manifest says of its samples' sizes and phrases."""

import json

from sa2va_ray.data.sample_kinds import KINDS, SampleKind, distinct_kinds, read_kinds

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
    manifest = json.loads(json.dumps({KINDS: {"train": [kind._asdict() for kind in kinds], "val": []}}))
    assert read_kinds(manifest, "train") == kinds
    assert read_kinds(manifest, "val") == []
    assert read_kinds({"counts": {}}, "train") is None
