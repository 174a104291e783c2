"""How the files of public data sets are called. To add one is an entry of `DATA_SETS`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sa2va_ray.images.files import IMAGE_KINDS

_ONE_EACH = "The names do not tell which images are of one person, so each is taken for a patient of its own."


@dataclass(frozen=True)
class DataSet:
    """Regular expressions for paths below the source, without their suffix. What the groups of a label's, or a mask's,
    match is the same for the image that it belongs to.

    Attributes:
        name: the layout, as reports call it.
        image: a group `part`, where there is one, tells parts of the data set of which one may have no labels.
        labels: by observer; those of the first are the truth.
        field_of_view: masks of what the camera saw, which are no labels.
        patient: a template that makes the patient of the groups of `image`; None: the names do not tell.
        note: what a user has to know of these patients.
        kinds: of the files.
    """

    name: str
    image: re.Pattern[str]
    labels: tuple[re.Pattern[str], ...]
    field_of_view: re.Pattern[str] | None = None
    patient: str | None = None
    note: str = ""
    kinds: frozenset[str] = field(default=IMAGE_KINDS)

    def patient_of(self, groups: Mapping[str, str]) -> str | None:
        """The patient of an image, by the groups of `image`."""
        return self.patient and self.patient.format_map(groups)


def _path(pattern: str) -> re.Pattern[str]:
    """Any folders, kept as they are, then what the pattern matches."""
    return re.compile(rf"(?P<top>(?:.*/)?){pattern}", re.IGNORECASE)


def _file(pattern: str) -> re.Pattern[str]:
    """A file in any folder."""
    return re.compile(rf"(?:.*/)?{pattern}", re.IGNORECASE)


NNUNET = DataSet(
    "nnunet",
    image=_path(r"images(?P<part>Tr|Ts)/(?P<case>[^/]+)_(?P<channel>\d{4})"),
    labels=(_path(r"labels(?P<part>Tr|Ts)/(?P<case>[^/]+)"),),
)
"""Any data set in the layout of nnU-Net. Its cases may be several of one patient, so `patient_pattern` has to say."""

DATA_SETS = (
    DataSet(
        "drive",
        image=_path(r"(?P<part>training|test)/images/(?P<number>\d\d)_(?:training|test)"),
        labels=(
            _path(r"(?P<part>training|test)/1st_manual/(?P<number>\d\d)_manual1"),
            _path(r"(?P<part>training|test)/2nd_manual/(?P<number>\d\d)_manual2"),
        ),
        field_of_view=_path(r"(?P<part>training|test)/mask/(?P<number>\d\d)_(?:training|test)_mask"),
        patient="{number}",
    ),
    DataSet(
        "stare",
        image=_file(r"(?P<number>im\d{4})"),
        labels=(_file(r"(?P<number>im\d{4})\.ah"), _file(r"(?P<number>im\d{4})\.vk")),
        patient="{number}",
    ),
    DataSet(
        "chase_db1",
        image=_file(r"Image_(?P<child>\d\d)(?P<eye>[LR])"),
        labels=(
            _file(r"Image_(?P<child>\d\d)(?P<eye>[LR])_1stHO"),
            _file(r"Image_(?P<child>\d\d)(?P<eye>[LR])_2ndHO"),
        ),
        patient="{child}",
        note="Both eyes of a child are one patient.",
    ),
    DataSet(
        "hrf",
        image=_path(r"images/(?P<number>\d\d)_(?P<kind>dr|g|h)"),
        labels=(_path(r"manual1/(?P<number>\d\d)_(?P<kind>dr|g|h)"),),
        field_of_view=_path(r"mask/(?P<number>\d\d)_(?P<kind>dr|g|h)_mask"),
        patient="{number}_{kind}",
    ),
    DataSet(
        "dca1",
        image=_file(r"(?P<number>\d+)"),
        labels=(_file(r"(?P<number>\d+)_gt"),),
        patient="{number}",
        note=_ONE_EACH,
        kinds=frozenset({"PNM"}),
    ),
    DataSet(
        "fives",
        image=_path(r"(?P<part>train|test)/Original/(?P<number>\d+)_(?P<kind>[ADGN])"),
        labels=(_path(r"(?P<part>train|test)/Ground[ _]truth/(?P<number>\d+)_(?P<kind>[ADGN])"),),
        patient="{part}/{number}",
        note=f"{_ONE_EACH} FIVES has 800 images of 573 persons.",
    ),
    NNUNET,
)
