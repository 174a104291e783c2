"""COCO instances: a JSON mapping with `images`, `annotations` and `categories`."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from sa2va_ray.prepare.records import Annotation, Rejected, Shape
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.items import Item, SourceOptions, build_item
from sa2va_ray.prepare.sources.shapes import no_objects, to_polygons, to_rle, to_size, to_text, wrong_type

LAYOUT = "coco"
_NO_IMAGE = Rejected("orphan_label", "A COCO annotation names an image id that no image has.")


def is_coco(content: Any) -> bool:
    fields = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(field), list) for field in fields)


def read_coco(folder: Folder, document: str, content: dict[str, Any], options: SourceOptions) -> Iterator[Item]:
    """An item for each image, in the file's order, then one for each image id that only annotations name."""
    by_image = _group(content["annotations"])
    times = Counter(_id(image) for image in content["images"])
    reader = _Reader(folder, document, _categories(content["categories"]), options.max_pixels)
    for image in content["images"]:
        yield reader.read(image, by_image.get(_id(image), []), is_only=times[_id(image)] == 1)
    for image_id in by_image:
        if image_id not in times:
            yield Item(LAYOUT, None, _NO_IMAGE)


class _Reader:
    def __init__(self, folder: Folder, document: str, categories: dict[Any, list[Any]], max_pixels: int) -> None:
        self._folder = folder
        self._document = document
        self._categories = categories  # id -> names
        self._max_pixels = max_pixels

    def read(self, image: Any, annotations: list[Any], is_only: bool) -> Item:
        if not isinstance(image, dict):
            return Item(LAYOUT, None, wrong_type("The image entry", "a mapping", image))
        return build_item(
            LAYOUT,
            find_image=lambda: self._folder.find_image(self._document, image.get("file_name")),
            annotate=lambda: self._annotate(image, annotations, is_only),
        )

    def _annotate(self, image: dict[str, Any], annotations: list[Any], is_only: bool) -> Annotation:
        if not is_only or image.get("id") is None:
            raise Rejected("image_id", "The image has no id, or shares it, so its annotations are unknown.")
        if not annotations:
            raise no_objects("The image")
        objects: dict[str, list[Shape]] = defaultdict(list)
        for each in annotations:
            objects[self._phrase(each.get("category_id"))] += self._shapes(each.get("segmentation"))
        size = to_size(image.get("height"), image.get("width"))
        return Annotation(dict(objects), _agreed_size(size, objects))

    def _phrase(self, category_id: Any) -> str:
        names = self._categories.get(_hashable(category_id), [])
        if len(names) != 1:
            raise Rejected("category_id", f"{len(names)} categories have the id that an annotation names; 1 is needed.")
        return to_text(names[0], "The name of a category")

    def _shapes(self, segmentation: Any) -> list[Shape]:
        if isinstance(segmentation, dict):
            return [to_rle(segmentation, self._max_pixels)]
        return list(to_polygons(segmentation, "An annotation"))


def _agreed_size(size: tuple[int, int] | None, objects: dict[str, list[Shape]]) -> tuple[int, int] | None:
    """The size of the image entry, else that of the run-length masks."""
    sizes = {tuple(shape["size"]) for shapes in objects.values() for shape in shapes if isinstance(shape, dict)}
    if size:
        sizes.add(size)
    if len(sizes) > 1:
        raise Rejected("label_sizes", f"Image entry and run-length masks state {len(sizes)} different sizes.")
    return sizes.pop() if sizes else None


def _group(annotations: list[Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for each in annotations:
        groups[_hashable(each.get("image_id")) if isinstance(each, dict) else None].append(each)
    return groups


def _categories(entries: list[Any]) -> dict[Any, list[Any]]:
    names: dict[Any, list[Any]] = defaultdict(list)
    for each in entries:
        if isinstance(each, dict):
            names[_id(each)].append(each.get("name"))
    return names


def _id(entry: Any) -> Any:
    return _hashable(entry.get("id")) if isinstance(entry, dict) else None


def _hashable(value: Any) -> Any:
    """Ids are numbers or texts; what else stands there is nobody's id."""
    return value if isinstance(value, int | str) else None
