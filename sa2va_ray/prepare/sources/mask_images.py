"""Mask images: which image they belong to, and how one becomes an annotation."""

from collections.abc import Callable, Iterator
from functools import partial

from sa2va_ray.images.decode import ImageError, decode_label_bytes, decode_mask_bytes
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.prepare.classes import IGNORE, Classes
from sa2va_ray.prepare.records import Annotation, LabelFile, Rejected, Shape
from sa2va_ray.prepare.sources.folder import Folder, group_by, in_label_folder, key_of, label_keys
from sa2va_ray.prepare.sources.items import Item, SourceOptions

LAYOUT = "mask_images"


class MaskPairs:
    """Attributes:
    images: names of the image files that are no masks, sorted.
    masks: names of the mask images that an image belongs to.
    lonely: names of the mask images that no image belongs to, sorted.
    """

    def __init__(self, folder: Folder, named: set[str], taken: set[str]) -> None:
        """`named` are surely images, whatever their folder is called; `taken` are masks of something else."""
        files = [name for name in folder.images if name not in taken]
        plain = [name for name in files if name in named or not in_label_folder(name)]
        suffixed = _with_suffix(plain) - named
        self.images = [name for name in plain if name not in suffixed]
        self._images = group_by((key_of(name), name) for name in self.images)
        known = set(self.images)
        keys = {name: self._find_key(name) for name in files if name not in known}
        self._masks = group_by((key, name) for name, key in keys.items() if key is not None)
        self.masks = {name for name, key in keys.items() if key is not None}
        self.lonely = [name for name, key in keys.items() if key is None]

    def masks_of(self, image: str) -> list[str]:
        return self._masks.get(key_of(image), [])

    def is_clear(self, image: str) -> bool:
        """Whether one mask and one image have this stem, not more."""
        return len(self.masks_of(image)) == len(self._images.get(key_of(image), [])) == 1

    def _find_key(self, mask: str) -> str | None:
        return next((key for key in label_keys(mask) if key in self._images), None)


def read_mask_images(folder: Folder, pairs: MaskPairs, options: SourceOptions) -> Iterator[Item]:
    """An item for each image that has a mask."""
    for image in pairs.images:
        masks = pairs.masks_of(image)
        if masks and pairs.is_clear(image):
            yield Item(LAYOUT, image, mask_label(folder, masks[0], options)).at(masks[0], None)
        elif masks:
            reason = f"The stem is shared by {len(masks)} mask(s) and several images, or by several masks"
            rejected = Rejected("ambiguous_pair", f"{reason}; which belong together is unknown.")
            yield Item(LAYOUT, image, rejected).at(masks[0], None)


def mask_label(folder: Folder, name: str, options: SourceOptions) -> LabelFile:
    read: Callable[[bytes, str], Annotation]
    if options.classes is not None:
        read = partial(read_class_mask, classes=options.classes, max_pixels=options.max_pixels)
    else:
        read = partial(read_mask, threshold=options.mask_threshold, max_pixels=options.max_pixels)
    return LabelFile(folder.uri_of(name), read, options.phrase)


def read_class_mask(data: bytes, phrase: str, classes: Classes, max_pixels: int) -> Annotation:
    """An encoded mask image of several classes; its values say which, so `phrase` is not needed.

    Raises:
        Rejected: a broken or too large image, a value that no class lists.
    """
    try:
        values = decode_label_bytes(data, max_pixels, classes.has_colours)
    except ImageError as error:
        raise _of_mask(error) from None
    masks = {name: mask_to_rle(mask) for name, mask in classes.masks_of(values).items()}
    ignored = masks.pop(IGNORE, None)
    height, width = values.shape
    objects: dict[str, list[Shape]] = {name: [rle] for name, rle in masks.items()} or classes.absent()
    return Annotation(objects, (height, width), ignored=(ignored,) if ignored else ())


def read_mask(data: bytes, phrase: str, threshold: int | None, max_pixels: int) -> Annotation:
    """An encoded mask image as an object called `phrase`.

    Raises:
        Rejected: a broken or too large image.
    """
    try:
        mask = decode_mask_bytes(data, max_pixels, threshold)
    except ImageError as error:
        raise _of_mask(error) from None
    height, width = mask.shape
    return Annotation({phrase: [mask_to_rle(mask)]}, (height, width))


def _of_mask(error: ImageError) -> Rejected:
    what = error.code.removeprefix("image_").removeprefix("mask_")
    return Rejected(f"mask_{what}", f"Of the mask: {error.reason}")


def _with_suffix(names: list[str]) -> set[str]:
    """Those with a name like `a_mask` where there is an `a`."""
    keys = {key_of(name) for name in names}
    return {name for name in names if any(key in keys for key in label_keys(name)[1:])}
