"""Finds the files of known data sets in a source, and what belongs to which image."""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sa2va_ray.config import UserError
from sa2va_ray.images.files import kind_of
from sa2va_ray.prepare.classes import Classes
from sa2va_ray.prepare.records import Annotation, Label, LabelFile, Rejected, SeveralLabels
from sa2va_ray.prepare.sources.datasets.nnunet import read_classes, without_channel
from sa2va_ray.prepare.sources.datasets.table import DATA_SETS, NNUNET, DataSet
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.items import Item, SourceOptions
from sa2va_ray.prepare.sources.mask_images import mask_label

_Key = tuple[tuple[str, str], ...]  # what the groups of a label's pattern match
_Files = dict[_Key, list[str]]
_Paths = dict[str, str]  # name -> the same without suffix


@dataclass(frozen=True)
class _Found:
    """Files of a data set.

    Attributes:
        images: those of which a label, or a whole part without labels, is there.
        groups: by image, what the groups of its pattern match.
        labels: by observer.
        unlabelled: images of parts without any label.
    """

    data_set: DataSet
    images: _Files
    groups: dict[str, dict[str, str]] = field(repr=False)
    labels: list[_Files]
    views: _Files
    unlabelled: list[str]

    @property
    def files(self) -> set[str]:
        groups = [self.images, *self.labels, self.views]
        return {name for files in groups for names in files.values() for name in names}.union(self.unlabelled)

    def key_of(self, image: str) -> _Key:
        return _key(self.groups[image], self.data_set.labels[0])


class DataSetFiles:
    """Attributes:
    files: names of the files that belong to known data sets.
    lonely_images, lonely_labels: those without the other, sorted.
    notes: what a user has to know of how they were read.
    """

    def __init__(self, folder: Folder, named: set[str], options: SourceOptions) -> None:
        """`named` are images that other labels name.

        Raises:
            UserError: images fit two data sets.
        """
        self._folder = folder
        self._options = options
        self._classes: dict[str, Classes | None] = {}  # by folder
        paths = {name: posixpath.splitext(name)[0] for name in folder.images if name not in named}
        self._found = [found for each in DATA_SETS if (found := _find(each, paths))]
        _check_distinct(self._found)
        self.files = {name for found in self._found for name in found.files}
        self.lonely_images = sorted(name for found in self._found for name in _lonely(found.images, found.labels[0]))
        self.lonely_labels = sorted(name for found in self._found for name in _lonely(found.labels[0], found.images))
        self.notes = [note for found in self._found for note in _notes(found, options)]

    def read(self) -> Iterator[Item]:
        """An item for each image that has a label of the first observer, data set by data set, by path."""
        for found in self._found:
            pairs = [(names, key) for key, names in found.images.items() if key in found.labels[0]]
            for images, key in sorted(pairs):
                for image in images:
                    yield self._to_item(found, image, self._label(found, key)).at(found.labels[0][key][0], None)

    @property
    def labels(self) -> set[str]:
        """Names of all that are no images: masks of every observer, and of the field of view."""
        groups = [files for found in self._found for files in (*found.labels, found.views)]
        return {name for files in groups for names in files.values() for name in names}

    def negative(self, image: str) -> Item | None:
        """The item of an image that is said to have no object; None for an image of no data set."""
        found = next((each for each in self._found if image in each.groups), None)
        if found is None:
            return None
        classes = self._classes_of(found, image)
        return self._to_item(found, image, Annotation(classes.absent() if classes else {}))

    def _to_item(self, found: _Found, image: str, label: Label | SeveralLabels | Rejected) -> Item:
        views = found.views.get(found.key_of(image), [])
        item = Item(
            found.data_set.name,
            image,
            label,
            patient=found.data_set.patient_of(found.groups[image]) if self._options.patients_of_data_sets else None,
            field_of_view=views[0] if views else None,
        )
        return item.called(without_channel(image)) if found.data_set is NNUNET else item

    def _label(self, found: _Found, key: _Key) -> Label | SeveralLabels | Rejected:
        counts = [len(files.get(key, [])) for files in (found.images, found.labels[0], found.views)]
        names = {} if self._options.annotators == "refuse" else _annotators(found, key)
        if found.data_set is NNUNET and counts[0] > 1:
            return Rejected(
                "ambiguous_pair",
                f"The case has {counts[0]} channels in files of their own (_0000, _0001, ...); images of one file are "
                "read. Put the channels into one image, or leave out all but one of them.",
            )
        if max(counts) > 1 or any(len(files) > 1 for files in names.values()):
            return Rejected(
                "ambiguous_pair",
                f"{counts[0]} image(s), {counts[1]} label(s) and {counts[2]} mask(s) of the field of view have "
                "the number of this image; one of each is read, and of labels one of each observer.",
            )
        if len(names) > 1:
            return SeveralLabels({who: self._label_file(found, files[0]) for who, files in names.items()})
        return self._label_file(found, found.labels[0][key][0])

    def _label_file(self, found: _Found, name: str) -> LabelFile:
        return mask_label(self._folder, name, replace(self._options, classes=self._classes_of(found, name)))

    def _classes_of(self, found: _Found, file: str) -> Classes | None:
        """Those of the config, else what the data set says of an image or a label."""
        if found.data_set is not NNUNET or self._options.classes is not None:
            return self._options.classes
        folder = posixpath.dirname(file)
        if folder not in self._classes:
            self._classes[folder] = read_classes(self._folder, file)
        return self._classes[folder]


def _find(data_set: DataSet, paths: _Paths) -> _Found | None:
    """The files of a data set; None where no image has a label of the first observer, or a mask of the field of view,
    which must not be taken for a label."""
    paths = {name: path for name, path in paths.items() if kind_of(name) in data_set.kinds}
    labels = [_group(_matches(pattern, paths), pattern) for pattern in data_set.labels]
    views = _group(_matches(data_set.field_of_view, paths), data_set.field_of_view) if data_set.field_of_view else {}
    if not labels[0] and not views:  # of 100,000 files this is soon told
        return None
    groups = _matches(data_set.image, paths)
    images = _group(groups, data_set.labels[0])
    if not images.keys() & (labels[0].keys() | views.keys()):
        return None
    labelled_parts = {dict(key).get("part") for key in labels[0]}
    unlabelled = [key for key in images if dict(key).get("part") not in labelled_parts]
    left = sorted(name for key in unlabelled for name in images.pop(key))
    return _Found(data_set, images, groups, labels, views, left)


def _annotators(found: _Found, key: _Key) -> dict[str, list[str]]:
    """Observer -> the labels of an image, of those who have one."""
    return {
        f"{found.data_set.name}/{number}": files[key] for number, files in enumerate(found.labels, 1) if key in files
    }


def _lonely(files: _Files, others: _Files) -> Iterator[str]:
    return (name for key, names in files.items() if key not in others for name in names)


def _matches(pattern: re.Pattern[str], paths: _Paths) -> dict[str, dict[str, str]]:
    """Of the files that a pattern matches, what its groups match, without upper and lower case."""
    found = ((name, pattern.fullmatch(path)) for name, path in paths.items())
    return {name: {group: text.lower() for group, text in each.groupdict().items()} for name, each in found if each}


def _group(matches: dict[str, dict[str, str]], pattern: re.Pattern[str]) -> _Files:
    """Files by what matches the groups that are those of `pattern`, too."""
    files: _Files = defaultdict(list)
    for name, groups in matches.items():
        files[_key(groups, pattern)].append(name)
    return dict(files)


def _key(groups: dict[str, str], pattern: re.Pattern[str]) -> _Key:
    return tuple((group, groups[group]) for group in pattern.groupindex)


def _check_distinct(found: list[_Found]) -> None:
    claims: dict[str, list[str]] = defaultdict(list)
    for each in found:
        for name in each.files:
            claims[name].append(each.data_set.name)
    twice = Counter(" and ".join(names) for names in claims.values() if len(names) > 1)
    if twice:
        raise UserError(
            f"{sum(twice.values())} file(s) of `source` fit the names of two data sets, {', '.join(twice)}. Say with "
            "`label_pattern` how the name of a label follows from that of its image."
        )


def _notes(found: _Found, options: SourceOptions) -> Iterator[str]:
    data_set = found.data_set
    if found.labels[0] and data_set.patient and options.patients_of_data_sets:
        yield (
            f"{data_set.name}: patients are told by the numbers in the names, as no patient_pattern is given. "
            f"{data_set.note}".strip()
        )
    others = sum(len(names) for files in found.labels[1:] for names in files.values())
    if others and options.annotators != "refuse":
        yield f"{data_set.name}: {others} label(s) of other observers are read beside the first one's."
    elif others:
        yield f"{data_set.name}: {others} label(s) of other observers left; the first observer's are the truth."
    if found.views:
        yield f"{data_set.name}: {len(found.views)} masks of the field of view, which are no labels."
    if found.unlabelled:
        yield f"{data_set.name}: {len(found.unlabelled)} image(s) of a part that has no labels left."
