"""What one annotator did with one image: the results of Label Studio become the objects of an annotation."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sa2va_ray.prepare.records import Annotation, Finding, Rejected
from sa2va_ray.prepare.sources.collected import Collected
from sa2va_ray.prepare.sources.items import SourceOptions
from sa2va_ray.prepare.sources.label_studio.regions import AREAS, BRUSH, MARKS, to_shape
from sa2va_ray.prepare.sources.shapes import to_size, to_text, wrong_type

_ANSWERS = ("choices", "textarea", "rating", "number", "datetime", "taxonomy", "pairwise", "ranker", "relation")
"""Kinds of results about an image or a region, which are none themselves."""
_LABELS = "labels"  # ends the kind of a region that has labels, and the key of these; alone it has labels only


@dataclass(frozen=True)
class Result:
    """Attributes:
    kind: one of `AREAS`, `MARKS`, `_ANSWERS`, `_LABELS`.
    region: what results of one region have in common.
    value: its geometry, and its labels.
    entry: around `value`, with the size of the image.
    """

    kind: str
    region: Any
    value: dict[str, Any] = field(repr=False)
    entry: dict[str, Any] = field(repr=False)


def to_results(entries: Any) -> list[Result]:
    """The list `result` of an annotation.

    Raises:
        Rejected: of another form, or with a region of a kind whose area is unknown.
    """
    if not isinstance(entries, list):
        raise wrong_type("The `result` of an annotation", "a list", entries)
    return [_to_result(entry, place) for place, entry in enumerate(entries)]


def _to_result(entry: Any, place: int) -> Result:
    if not isinstance(entry, dict):
        raise wrong_type("A result of an annotation", "a mapping", entry)
    kind = entry.get("type")
    if not isinstance(kind, str):
        raise wrong_type("The type of a result", "a text", kind)
    kind = kind.lower()
    kind = kind if kind == _LABELS else kind.removesuffix(_LABELS)
    if kind not in (*AREAS, *MARKS, *_ANSWERS, _LABELS):
        raise unknown_kind()
    value = entry.get("value", {})
    if not isinstance(value, dict):
        raise wrong_type("The value of a result", "a mapping", value)
    return Result(kind, entry.get("id", (place,)), value, entry)


def is_labels(key: str) -> bool:
    """Whether a key of a region's value has its labels: `brushlabels` and the like."""
    return key.endswith(_LABELS)


def unknown_kind() -> Rejected:
    return Rejected(
        "shape_type",
        "A result of the annotation is of a kind that is unknown here, so its area is, too. Draw it as "
        f"{', '.join(AREAS)}, or take it out.",
    )


def annotate(results: Sequence[Result], options: SourceOptions) -> Annotation:
    """The regions that have an area, by their labels.

    Raises:
        Rejected: regions of several images, or drawn on images of several sizes or on a turned one; a region without
            label beside some that have one; marks alone.
    """
    regions = [result for result in results if result.kind in (*AREAS, *MARKS)]
    _check_one_image(regions)
    areas = [region for region in regions if region.kind in AREAS]
    if regions and not areas:
        raise Rejected(
            "no_area", f"The annotation has {len(regions)} key point(s) and no region that has an area. Draw one."
        )
    if not areas:
        return Annotation({}, findings=tuple(_left_out(results)))
    size = _size(areas)
    collected = Collected(options.ignore_labels, options.classes)
    for region, labels in zip(areas, _labels(areas, results, options.phrase), strict=True):
        for label in filter(collected.keeps, labels):
            collected.add(label, [to_shape(region.kind, region.value, size, options.max_pixels)])
    is_brush = any(region.kind == BRUSH for region in areas)
    return collected.to_annotation(size, _left_out(results), is_exact=is_brush)


def _check_one_image(regions: Sequence[Result]) -> None:
    images = {str(region.entry.get("to_name")) for region in regions}
    has_pages = any(region.entry.get("item_index") is not None for region in regions)
    if len(images) > 1 or has_pages:
        what = f"{len(images)} Image tags" if len(images) > 1 else "pages of an Image tag with several"
        raise Rejected(
            "several_images",
            f"The regions of the task lie on {what}; a sample is one image. Make a project with one Image tag of one "
            "image for each task.",
        )


def _size(areas: Sequence[Result]) -> tuple[int, int]:
    """(H, W) of the image that all regions were drawn on."""
    sizes: set[tuple[int, int]] = set()
    num_unsized = 0
    for region in areas:
        if region.entry.get("image_rotation"):
            raise Rejected(
                "image_turned",
                "A region was drawn on an image that was turned in Label Studio (image_rotation), so where it lies is "
                "not certain. Turn the image itself, and draw it there.",
            )
        size = to_size(region.entry.get("original_height"), region.entry.get("original_width"))
        sizes |= {size} if size else set()
        num_unsized += size is None
    if num_unsized or len(sizes) > 1:
        raise Rejected(
            "label_sizes",
            f"The regions of the task state {len(sizes)} size(s) of their image (original_width, original_height), "
            f"{num_unsized} none; all have to state the same.",
        )
    return sizes.pop()


def _labels(areas: Sequence[Result], results: Sequence[Result], phrase: str) -> Iterator[list[str]]:
    """The labels of each region; `phrase` for all where the annotation has none."""
    of_region: dict[Any, list[str]] = defaultdict(list)
    for result in results:
        for key, labels in result.value.items():
            if is_labels(key):
                of_region[_key(result)] += _to_texts(labels)
    for region in areas:
        labels = list(dict.fromkeys(of_region[_key(region)]))
        if not labels and any(of_region.values()):
            reason = "A region of the annotation has no label, and others have one. Give it its own in Label Studio."
            raise Rejected("no_label", reason)
        yield labels or [phrase]


def _key(result: Result) -> str:
    return repr(result.region)


def _to_texts(labels: Any) -> list[str]:
    if not isinstance(labels, list):
        raise wrong_type("The labels of a region", "a list", labels)
    return [to_text(label, "A label") for label in labels]


def _left_out(results: Sequence[Result]) -> Iterator[Finding]:
    counts = Counter(result.kind for result in results if result.kind not in (*AREAS, _LABELS))
    if counts:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        yield Finding("without_area", f"{counts.total()} result(s) that have no area were left out: {kinds}.")
