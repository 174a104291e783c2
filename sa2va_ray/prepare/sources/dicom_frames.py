"""DICOM files with a mask image for each frame that is annotated.

The mask of frame 12 of `run.dcm` is called `run_12.png` or `run_0012_mask.png`, frames counted from 1 as DICOM does.
A file of one frame may have `run.png` or `run_mask.png`. Masks lie beside the file, or in a sibling folder.
"""

import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sa2va_ray.config import UserError
from sa2va_ray.images.checks import is_dicom
from sa2va_ray.images.decode import ImageError
from sa2va_ray.images.files import kind_of
from sa2va_ray.prepare.records import Annotation, LabelFile, Rejected
from sa2va_ray.prepare.sources.folder import Folder, group_by, key_of, label_keys
from sa2va_ray.prepare.sources.items import Item, SourceOptions
from sa2va_ray.prepare.sources.mask_images import mask_label

if TYPE_CHECKING:
    from sa2va_ray.images.formats.dicom import DicomFacts  # needs the extra `dicom`

LAYOUT = "dicom"
_HEAD_BYTES = 132  # preamble and "DICM"
_MAX_DIGITS = 9
_NUM_READERS = 4  # hides the latency of a store; each holds a whole file in memory

_Masks = dict[tuple[str, int | None], list[str]]  # (DICOM file, number in the name of the mask) -> masks


class DicomFrames:
    """Attributes:
    files: names of the DICOM files, sorted.
    masks: names of the mask images that belong to one.
    """

    def __init__(self, folder: Folder, named: set[str]) -> None:
        """`named` are images that other labels name, so no masks."""
        self._folder = folder
        self.files = [name for name in folder.names if _is_dicom_file(folder, name)]
        by_key = group_by((key_of(name), name) for name in self.files)
        candidates = [name for name in folder.images if name not in named] if by_key else []
        targets = {name: _targets(name, by_key) for name in candidates}
        self.masks = {name for name, found in targets.items() if found}
        self._unclear = {name for name, found in targets.items() if len(found) > 1}
        self._of_frame: _Masks = defaultdict(list)
        for name, found in targets.items():
            for target in found:
                self._of_frame[target].append(name)

    def read(self, options: SourceOptions) -> Iterator[Item]:
        """An item for each frame that a mask names. Raises `UserError` where that needs pydicom and there is none."""
        if self._of_frame:
            _check_pydicom()
        numbers: dict[str, list[int | None]] = defaultdict(list)
        for file, number in sorted(self._of_frame, key=lambda target: (target[0], target[1] or 0)):
            numbers[file].append(number)
        with ThreadPoolExecutor(_NUM_READERS) as pool:
            for file, facts in zip(numbers, pool.map(self._read_facts, numbers), strict=True):
                for number in numbers[file]:
                    item = self._to_item(file, number, facts, options)
                    yield item.at(self._of_frame[file, number][0], None)

    def negatives(self, file: str) -> list[Item]:
        """Items of the frames of a file, said to have no object, that no mask names."""
        _check_pydicom()
        facts = self._read_facts(file)
        if isinstance(facts, Rejected):
            return [Item(LAYOUT, file, facts)]
        labelled = {(number or 1) - 1 for name, number in self._of_frame if name == file}
        frames = [frame for frame in range(facts.num_frames) if frame not in labelled]
        return [self._of_patient(file, frame, facts, Annotation({})) for frame in frames]

    def _read_facts(self, file: str) -> "DicomFacts | Rejected":
        from sa2va_ray.images.formats.dicom import read_facts

        try:
            return read_facts(self._folder.read(file))
        except ImageError as error:
            return Rejected(error.code, error.reason)

    def _to_item(self, file: str, number: int | None, facts: "DicomFacts | Rejected", options: SourceOptions) -> Item:
        if isinstance(facts, Rejected):
            return Item(LAYOUT, file, facts)
        try:
            frame = _to_frame(number, facts.num_frames)
            label = self._label(file, number, options)
        except Rejected as rejected:
            return Item(LAYOUT, file, rejected.with_traceback(None))
        return self._of_patient(file, frame, facts, label)

    def _of_patient(self, file: str, frame: int, facts: "DicomFacts", label: LabelFile | Annotation) -> Item:
        if not facts.patient_id:
            reason = "The DICOM file has no PatientID, so it is unknown which other files are of the same patient."
            return Item(LAYOUT, file, Rejected("patient_missing", reason), frame)
        return Item(LAYOUT, file, label, frame, facts.patient_id, facts.series_uid or None)

    def _label(self, file: str, number: int | None, options: SourceOptions) -> LabelFile:
        masks = self._of_frame[file, number]
        if len(masks) > 1 or masks[0] in self._unclear:
            raise Rejected("ambiguous_pair", "Several masks name this frame, or its mask fits several DICOM files.")
        return mask_label(self._folder, masks[0], options)


def _check_pydicom() -> None:
    if importlib.util.find_spec("pydicom") is None:
        raise UserError("`source` has DICOM files; to read them: pip install 'sa2va-ray[dicom]'.")


def _is_dicom_file(folder: Folder, name: str) -> bool:
    """By suffix; without one (names of digits and dots are UIDs) by how the file begins."""
    if kind_of(name) != "other":
        return kind_of(name) == "DICOM"
    file = name.rpartition("/")[2]
    without_suffix = "." not in file or file.replace(".", "").isdecimal()
    return without_suffix and is_dicom(folder.read_head(name, _HEAD_BYTES))


def _targets(mask: str, files: dict[str, list[str]]) -> set[tuple[str, int | None]]:
    """(DICOM file, number) that the name of an image may mean."""
    found: set[tuple[str, int | None]] = set()
    for key in label_keys(mask):
        found |= {(file, None) for file in files.get(key, [])}
        match = re.fullmatch(rf"(.+)_(\d{{1,{_MAX_DIGITS}}})", key, re.ASCII | re.DOTALL)
        if match:
            found |= {(file, int(match[2])) for file in files.get(match[1], [])}
    return found


def _to_frame(number: int | None, num_frames: int) -> int:
    """Number in a mask's name, from 1 -> frame, from 0."""
    if number is None and num_frames > 1:
        raise Rejected("frame_unknown", f"The DICOM file has {num_frames} frames, the name of the mask no number.")
    if number is not None and not 1 <= number <= num_frames:
        raise Rejected(
            "frame_missing", f"A mask is for frame {number}, counted from 1; the DICOM file has {num_frames}."
        )
    return (number or 1) - 1
