"""COCO instances: a JSON mapping with `images`, `annotations` and `categories`.

Tools write it in many ways, and what has one meaning only is read: ids as texts or floats, paths of the computer of
whoever drew the objects, run lengths in a list, a polygon without one. What may mean two things is refused.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from sa2va_ray.prepare.records import Annotation, Finding, Rejected, Shape
from sa2va_ray.prepare.sources.collected import Collected
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.items import DocumentLayout, Item, SourceOptions, build_item
from sa2va_ray.prepare.sources.label_studio.uploads import find_image, without_prefix
from sa2va_ray.prepare.sources.shapes import to_rle, to_segmentation, to_size, to_text, to_whole, wrong_type

LAYOUT = "coco"
_Labelled = list[tuple[str, Any]]  # annotations with their labels
_LABEL_STUDIO_PATH = re.compile(r"upload[/\\]\d+[/\\]|images\\\d+[/\\]|local-files/\?d=")


def is_coco(content: Any) -> bool:
    """With categories, or with images that are named as only COCO names them."""
    if not isinstance(content, dict):
        return False
    images, annotations, categories = (content.get(field) for field in ("images", "annotations", "categories"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        return False
    return isinstance(categories, list) or any(isinstance(each, dict) and "file_name" in each for each in images)


def read_coco(folder: Folder, document: str, content: dict[str, Any], options: SourceOptions) -> Iterator[Item]:
    """An item for each image, in the file's order, then one for each image id that only annotations name."""
    by_image = _group(content["annotations"])
    times = Counter(_id(image) for image in content["images"])
    num_lost = sum(len(group) for image_id, group in by_image.items() if image_id is None or image_id not in times)
    reader = _Reader(folder, document, content, options, num_lost)
    for place, image in enumerate(content["images"]):
        item = reader.read(image, by_image.get(_id(image), []), is_only=times[_id(image)] == 1)
        yield item.at(document, f".images[{place}]")
    places: dict[Any, int] = {}
    for place, annotation in enumerate(content["annotations"]):
        places.setdefault(_image_id(annotation), place)
    for image_id, group in by_image.items():
        if image_id not in times:
            reason = f"{len(group)} COCO annotation(s) name an image id that no image has."
            if image_id is None:
                reason = f"{len(group)} COCO annotation(s) are no mappings, or have no number or text as `image_id`."
            rejected = Rejected("orphan_label", reason)
            yield Item(LAYOUT, None, rejected).at(document, f".annotations[{places[image_id]}]")


def _of_crowds(crowds: _Labelled, others: _Labelled) -> str:
    total = len(crowds) + len(others)
    return f"{len(crowds)} of {total} annotations of the image are crowd regions (iscrowd 1)"


class _Reader:
    def __init__(
        self, folder: Folder, document: str, content: dict[str, Any], options: SourceOptions, num_lost: int
    ) -> None:
        self._folder = folder
        self._document = document
        self._options = options
        self._categories = _categories(content)
        self._is_label_studio = _is_label_studio(content)
        self._num_lost = num_lost  # annotations of which it is unknown what image they are about

    def read(self, image: Any, annotations: list[Any], is_only: bool) -> Item:
        if not isinstance(image, dict):
            return Item(LAYOUT, None, wrong_type("The image entry", "a mapping", image))
        item = build_item(
            LAYOUT,
            find_image=lambda: self._find_image(image.get("file_name")),
            annotate=lambda: self._annotate(image, annotations, is_only),
        )
        return item.called(without_prefix(item.image)) if self._is_label_studio and item.image else item

    def _find_image(self, path: Any) -> str:
        find = find_image if self._is_label_studio else Folder.find_image_by_name
        return find(self._folder, self._document, path)

    def _annotate(self, image: dict[str, Any], annotations: list[Any], is_only: bool) -> Annotation:
        if not is_only or _id(image) is None:
            raise Rejected("image_id", "The image has no id, or shares it, so its annotations are unknown.")
        if not annotations and self._num_lost:
            raise self._lost_annotations()
        collected = Collected(self._options.ignore_labels, self._options.classes)
        labels = [self._label(each.get("category_id")) for each in annotations]
        kept = [(label, each) for label, each in zip(labels, annotations, strict=True) if collected.keeps(label)]
        kept, crowds = self._split_crowds(kept)
        for number, (label, each) in enumerate(kept, start=1):
            collected.add(label, self._shapes(each, f"Annotation {number} of the image's {len(kept)}"))
        ignored = [shape for _, crowd in crowds for shape in self._shapes(crowd, "A crowd region of the image")]
        size = to_size(image.get("height"), image.get("width"))
        read = collected.to_annotation(_agreed_size(size, [*chain(*collected.shapes.values()), *ignored]))
        if not crowds:
            return read
        told = Finding("crowd_ignored", f"{_of_crowds(crowds, kept)}; what they cover does not count.")
        return replace(read, ignored=(*read.ignored, *ignored), findings=(*read.findings, told))

    def _lost_annotations(self) -> Rejected:
        return Rejected(
            "no_objects",
            f"No annotation names the id of this image, and {self._num_lost} annotation(s) of this file name no image "
            "that it has; is this one's meant?",
        )

    def _split_crowds(self, annotations: _Labelled) -> tuple[_Labelled, _Labelled]:
        """The objects, and the regions that are to be ignored. COCO means by a crowd what is not to be learnt; CVAT
        writes masks of its brush so. Where all of an image are crowds they can only be masks."""
        own = [each for each in annotations if not _is_crowd(each[1])]
        crowds = [each for each in annotations if _is_crowd(each[1])]
        how = self._options.on_crowd
        if how == "use" or not own or not crowds:
            return annotations, []
        if how == "quarantine":
            raise Rejected(
                "crowd_region",
                f"{_of_crowds(crowds, own)}: regions that are not to be learnt, or masks of a brush. Say which with "
                "on_crowd=ignore or on_crowd=use.",
            )
        return own, crowds

    def _label(self, category_id: Any) -> str:
        if self._categories is None:
            return self._options.phrase
        names = self._categories.get(_to_id(category_id), [])
        if len(names) != 1:
            raise Rejected("category_id", f"{len(names)} categories have the id that an annotation names; 1 is needed.")
        return to_text(names[0], "The name of a category")

    def _shapes(self, annotation: dict[str, Any], where: str) -> list[Shape]:
        segmentation = annotation.get("segmentation")
        if not segmentation and isinstance(segmentation, list | None):
            what = "a box alone" if annotation.get("bbox") else "no outline"
            raise Rejected(
                "no_area",
                f"{where} has {what} and no segmentation. Draw it, take it out, or name its label in `ignore_labels`.",
            )
        parts = segmentation if isinstance(segmentation, list) else [segmentation]
        if any(isinstance(part, dict) for part in parts):
            if not all(isinstance(part, dict) for part in parts):
                raise Rejected("wrong_type", f"{where} mixes run-length masks with something else in one list.")
            return [to_rle(part, self._options.max_pixels) for part in parts]
        return list(to_segmentation(segmentation, where))


def _is_crowd(annotation: dict[str, Any]) -> bool:
    value = annotation.get("iscrowd")
    return value is True or to_whole(value) == 1


def _agreed_size(size: tuple[int, int] | None, shapes: Iterable[Shape]) -> tuple[int, int] | None:
    """The size of the image entry, else that of the run-length masks."""
    sizes = {tuple(shape["size"]) for shape in shapes if isinstance(shape, dict)}
    if size:
        sizes.add(size)
    if len(sizes) > 1:
        (height, width), (other_height, other_width) = sorted(sizes)[:2]
        swapped = " Height and width may be swapped." if (height, width) == (other_width, other_height) else ""
        raise Rejected(
            "label_sizes",
            f"Image entry and run-length masks state {len(sizes)} different sizes, such as {width} x {height} and "
            f"{other_width} x {other_height} px.{swapped}",
        )
    return sizes.pop() if sizes else None


def _group(annotations: list[Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for each in annotations:
        groups[_image_id(each)].append(each)
    return groups


def _categories(content: dict[str, Any]) -> dict[Any, list[Any]] | None:
    """Id -> names; None where the file has no categories and its annotations need none, naming one id at most."""
    entries = content.get("categories")
    used = {_to_id(each.get("category_id")) for each in content["annotations"] if isinstance(each, dict)}
    if not entries and len(used) <= 1:
        return None
    names: dict[Any, list[Any]] = defaultdict(list)
    for each in entries if isinstance(entries, list) else []:
        if isinstance(each, dict):
            names[_id(each)].append(each.get("name"))
    return names


def _is_label_studio(content: dict[str, Any]) -> bool:
    """By its own word, else by the paths that only it writes."""
    info = content.get("info")
    if isinstance(info, dict) and info.get("contributor") == "Label Studio":
        return True
    paths = (image.get("file_name") for image in content["images"] if isinstance(image, dict))
    return any(isinstance(path, str) and _LABEL_STUDIO_PATH.search(path) for path in paths)


def _id(entry: Any) -> Any:
    return _to_id(entry.get("id")) if isinstance(entry, dict) else None


def _image_id(annotation: Any) -> Any:
    return _to_id(annotation.get("image_id")) if isinstance(annotation, dict) else None


def _to_id(value: Any) -> int | str | None:
    """Ids are numbers or texts; what else stands there is nobody's id."""
    whole = to_whole(value)
    return value if whole is None and isinstance(value, str) else whole


DOCUMENT = DocumentLayout(is_coco, read_coco, "COCO instances")
