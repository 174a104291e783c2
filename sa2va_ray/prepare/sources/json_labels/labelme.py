"""LabelMe: a JSON file for each image."""

import posixpath
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

from sa2va_ray.config import LARGEST_IMAGE_PX
from sa2va_ray.prepare.classes import Classes
from sa2va_ray.prepare.records import Annotation, LabelFile, Rejected
from sa2va_ray.prepare.sources.collected import Collected
from sa2va_ray.prepare.sources.folder import Folder, group_by, in_label_folder, key_of
from sa2va_ray.prepare.sources.items import Item, SourceOptions
from sa2va_ray.prepare.sources.json_labels.labelme_shapes import to_shape
from sa2va_ray.prepare.sources.shapes import parse_json, to_size, to_text, wrong_type

LAYOUT = "labelme"
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
        data = folder.read(name)
        try:
            if is_labelme(parse_json(data)):
                return True
        except Rejected:
            if b'"shapes"' in data:  # of another encoding, or cut off: it shall be told so
                return True
    return False


def find_image(folder: Folder, name: str, content: dict[str, Any]) -> str | None:
    """Image of a file whose stem no image has, by the base name of `imagePath`. The folders that stand there are those
    of the computer of whoever drew the shapes."""
    path = content.get("imagePath")
    if not isinstance(path, str):
        return None
    try:
        return folder.find_image_by_name(name, path.replace("\\", "/").rpartition("/")[2])
    except Rejected:
        return None


def read_labels(folder: Folder, pairs: dict[str, list[str]], options: SourceOptions) -> Iterator[Item]:
    """An item for each image, or for each label whose image is not clear."""
    labels = group_by((image, name) for name, images in pairs.items() for image in images)
    for name, images in pairs.items():
        if len(images) > 1:
            for image in images:
                what = f"{len(images)} images have the stem of one label file"
                yield Item(LAYOUT, image, _ambiguous(what)).at(name, None)
        elif len(labels[images[0]]) > 1:
            what = f"{len(labels[images[0]])} label files have the stem of an image"
            yield Item(LAYOUT, images[0], _ambiguous(what)).at(name, None)
        else:
            yield Item(LAYOUT, images[0], labelme_label(folder, name, options)).at(name, None)


def labelme_label(folder: Folder, name: str, options: SourceOptions) -> LabelFile:
    read = partial(
        read_labelme, ignore_labels=options.ignore_labels, classes=options.classes, max_pixels=options.max_pixels
    )
    return LabelFile(folder.uri_of(name), read, options.phrase)


def read_labelme(
    data: bytes,
    phrase: str,
    ignore_labels: Collection[str] = (),
    classes: Classes | None = None,
    max_pixels: int = LARGEST_IMAGE_PX,
) -> Annotation:
    """The content of a LabelMe file; its labels are the phrases or say the class, so `phrase` is not needed.

    Raises:
        Rejected: no LabelMe, a shape without area, a wrong polygon, an empty label, one that no class has.
    """
    content = parse_json(data)
    if not is_labelme(content):
        raise Rejected("wrong_type", "The JSON file with the stem of the image is no LabelMe file.")
    size = to_size(content.get("imageHeight"), content.get("imageWidth"))
    collected = Collected(ignore_labels, classes)
    for shape in content["shapes"]:
        if not isinstance(shape, dict):
            raise wrong_type("A shape", "a mapping", shape)
        label = to_text(shape.get("label"), "The label of a shape")
        if collected.keeps(label):
            collected.add(label, [to_shape(shape, size, max_pixels)])
    return collected.to_annotation(size)


def _beside(label: str, images: list[str]) -> list[str]:
    """The images with the stem of a label that lie in its own folder, where there are any; else all of them."""
    own = [image for image in images if posixpath.dirname(image) == posixpath.dirname(label)]
    return own or images


def _ambiguous(what: str) -> Rejected:
    return Rejected("ambiguous_pair", f"{what}; which belong together is unknown.")
