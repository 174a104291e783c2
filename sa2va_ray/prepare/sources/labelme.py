"""LabelMe: a JSON file for each image."""

import posixpath
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from sa2va_ray.prepare.records import Annotation, LabelFile, Rejected, Shape
from sa2va_ray.prepare.sources.folder import Folder, group_by, in_label_folder, key_of
from sa2va_ray.prepare.sources.items import Item, SourceOptions
from sa2va_ray.prepare.sources.shapes import no_objects, parse_json, to_polygon, to_size, to_text, wrong_type

LAYOUT = "labelme"
_OTHER_SHAPES = ("line", "linestrip", "point", "points", "circle", "mask")
_NUM_PEEKED = 5


def is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def pair_labels(folder: Folder) -> dict[str, list[str]]:
    """JSON files that share their stem with images -> these images."""
    images = group_by((key_of(name), name) for name in folder.images if not in_label_folder(name))
    pairs = {name: images.get(key_of(name), []) for name in folder.json_files}
    return {name: _beside(name, found) for name, found in pairs.items() if found}


def are_labelme(folder: Folder, names: list[str]) -> bool:
    """Looks at a few only: the files may be millions."""
    for name in names[:_NUM_PEEKED]:
        try:
            if is_labelme(parse_json(folder.read(name))):
                return True
        except Rejected:
            continue
    return False


def find_image(folder: Folder, name: str, content: dict[str, Any]) -> str | None:
    """Image of a file whose stem no image has, by the base name of `imagePath`. The folders that stand there are those
    of the computer of whoever drew the shapes."""
    path = content.get("imagePath")
    if not isinstance(path, str):
        return None
    try:
        return folder.find_image(name, path.replace("\\", "/").rpartition("/")[2])
    except Rejected:
        return None


def read_labels(folder: Folder, pairs: dict[str, list[str]], options: SourceOptions) -> Iterator[Item]:
    """An item for each image, or for each label whose image is not clear."""
    labels = group_by((image, name) for name, images in pairs.items() for image in images)
    for name, images in pairs.items():
        if len(images) > 1:
            for image in images:
                yield Item(LAYOUT, image, _ambiguous(f"{len(images)} images have the stem of one label file"))
        elif len(labels[images[0]]) > 1:
            yield Item(LAYOUT, images[0], _ambiguous(f"{len(labels[images[0]])} label files have the stem of an image"))
        else:
            yield Item(LAYOUT, images[0], LabelFile(folder.uri_of(name), read_labelme, options.phrase))


def read_labelme(data: bytes, phrase: str) -> Annotation:
    """The content of a LabelMe file; its labels are the phrases, so `phrase` is not needed.

    Raises:
        Rejected: no LabelMe, no shapes, a shape that is neither polygon nor rectangle, a wrong polygon, an empty label.
    """
    content = parse_json(data)
    if not is_labelme(content):
        raise Rejected("wrong_type", "The JSON file with the stem of the image is no LabelMe file.")
    if not content["shapes"]:
        raise no_objects("The LabelMe file")
    objects: dict[str, list[Shape]] = defaultdict(list)
    for shape in content["shapes"]:
        if not isinstance(shape, dict):
            raise wrong_type("A shape", "a mapping", shape)
        objects[to_text(shape.get("label"), "The label of a shape")].append(_to_polygon(shape))
    return Annotation(dict(objects), to_size(content.get("imageHeight"), content.get("imageWidth")))


def _to_polygon(shape: dict[str, Any]) -> np.ndarray:
    kind, points = shape.get("shape_type", "polygon"), shape.get("points")
    if kind == "polygon":
        return to_polygon(points)
    if kind == "rectangle":
        return _to_rectangle(points)
    known = kind if kind in _OTHER_SHAPES else "unknown"
    raise Rejected("shape_type", f"A shape of type {known} has no area that is known; polygon and rectangle are read.")


def _to_rectangle(points: Any) -> np.ndarray:
    if not isinstance(points, list) or len(points) != 2 or not all(isinstance(each, list) for each in points):
        raise Rejected("wrong_type", "A rectangle is not given by two opposite corners.")
    first, second = points
    return to_polygon([first, [*second[:1], *first[1:]], second, [*first[:1], *second[1:]]])


def _beside(label: str, images: list[str]) -> list[str]:
    """Of several images with the stem of a label those in its own folder, if there are any."""
    own = [image for image in images if posixpath.dirname(image) == posixpath.dirname(label)]
    return own or images


def _ambiguous(what: str) -> Rejected:
    return Rejected("ambiguous_pair", f"{what}; which belong together is unknown.")
