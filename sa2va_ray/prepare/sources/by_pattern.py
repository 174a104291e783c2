"""Images and labels that belong together as `label_pattern` says."""

from collections import Counter
from collections.abc import Iterator

from sa2va_ray.config import UserError
from sa2va_ray.images.files import kind_of
from sa2va_ray.prepare.label_pattern import LabelPattern
from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.items import Item, SourceOptions
from sa2va_ray.prepare.sources.json_labels.labelme import labelme_label
from sa2va_ray.prepare.sources.mask_images import mask_label

LAYOUT = "label_pattern"


class PatternPairs:
    """Attributes:
    lonely: names of the images whose label is not there, sorted.
    reason: why they are lonely.
    notes: what a user has to know, in numbers.
    """

    def __init__(self, folder: Folder, pattern: LabelPattern, options: SourceOptions) -> None:
        """Raises `UserError` where no image has a label."""
        self._folder = folder
        self._options = options
        there = {*folder.images, *folder.json_files}
        named = {image: label for image in folder.images if (label := pattern.label_of(image)) not in (None, image)}
        labels = set(named.values()) & there
        images = [image for image in named if image not in labels]
        self._pairs = {image: named[image] for image in images if named[image] in labels}
        self.lonely = [image for image in images if image not in self._pairs]
        counts = f"{len(self._pairs)} of {len(images)} images have the label that `label_pattern` names"
        if not self._pairs:
            raise UserError(f"{counts}, of {len(folder.images)} image file(s) in `source`. {_explained(pattern)}")
        self.reason = f"`label_pattern` names a label for this image that is not there; {counts}."
        self.notes = [f"{counts}."]
        if others := len(set(folder.images) - labels - set(images)):
            self.notes.append(f"{others} image file(s) are on neither side of `label_pattern`, and left.")

    def read(self) -> Iterator[Item]:
        """An item for each image that has its label, by path."""
        times = Counter(self._pairs.values())
        for image, label in self._pairs.items():
            if times[label] > 1:
                reason = f"{times[label]} images have one label by `label_pattern`; whose it is is unknown."
                yield Item(LAYOUT, image, Rejected("ambiguous_pair", reason)).at(label, None)
            else:
                read = labelme_label if kind_of(label) == "JSON" else mask_label
                yield Item(LAYOUT, image, read(self._folder, label, self._options)).at(label, None)


def _explained(pattern: LabelPattern) -> str:
    image, label = pattern.example
    return f"By it, an image {image} (made up) would have its label in {label}; upper and lower case count."
