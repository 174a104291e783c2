"""Config of the prepare job."""

import re
import unicodedata
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, field_validator, model_validator

from sa2va_ray.config import LARGEST_IMAGE_PX, Config, MaxPixels, Seed
from sa2va_ray.data.nnunet_layout import RESERVED
from sa2va_ray.images.spacing import MAX_SPACING_MM, MIN_SPACING_MM
from sa2va_ray.label_studio.address import SCHEME, LabelStudioConfig, project_number
from sa2va_ray.prepare.classes import IGNORE, Classes, to_phrase
from sa2va_ray.prepare.identity.patient_pattern import DEFAULT_PATIENT_PATTERN, PatientPattern
from sa2va_ray.prepare.label_pattern import LabelPattern
from sa2va_ray.storage import KeptUri, Uri, is_local

_Side = Annotated[int, Field(gt=0, le=2**20)]
_Spacing = Annotated[float, Field(ge=MIN_SPACING_MM, le=MAX_SPACING_MM)]
MAX_NEAR_DUPLICATE_BITS = 15  # what `duplicates.near_duplicates` finds without comparing all with all


class ChecksConfig(Config):
    """What a sample has to be like; one that is not goes to quarantine."""

    max_pixels: MaxPixels = LARGEST_IMAGE_PX
    """Most pixels of an image, found in its header before anything is decoded."""
    min_foreground_fraction: float = Field(0.001, ge=0, le=1)
    """Least share of the pixels that the objects cover together, in images that have any."""
    max_foreground_fraction: float = Field(0.6, ge=0, le=1)
    """Largest share of the pixels that the objects cover together."""
    min_mask_dice: float = Field(0.95, ge=0, le=1)
    """Where the source has polygons and a mask image: least Dice of the two. It falls when polygons were simplified,
    or drawn around loops of vessels that they fill."""
    on_disagreement: Literal["quarantine", "mask", "polygons"] = "quarantine"
    """What to do with a sample below `min_mask_dice`: leave it out, or take one of the two as the truth."""
    min_agreement: float = Field(0.2, ge=0, le=1)
    """Where an image has several annotators: least mean Dice of every two of them. Vessel maps of different eyes have
    about 0.1 by chance, people who draw the same vessels 0.7 to 0.9."""
    near_duplicate_bits: int = Field(12, ge=0, le=MAX_NEAR_DUPLICATE_BITS)
    """Two images whose perceptual hashes of 256 bits differ in so many bits or fewer are near duplicates. Scaling and
    JPEG change up to 6 bits; different eyes differ in more than 50."""


class SplitConfig(Config):
    """Which patients are for training, validation and test."""

    method: Literal["hash", "balanced"] = "hash"
    """`hash` draws a lot for each patient: a patient stays in its split when patients are added, and few patients may
    be dealt far from the shares below. `balanced` gives these shares, rounded to whole patients, by the same seed: when
    patients are added, others may come to another split."""
    val_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the patients in the validation split. Not used with `num_folds`."""
    test_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the patients in the test split."""
    seed: Seed = 0
    """Another seed deals the patients anew."""
    num_folds: int | None = Field(None, ge=2, le=100)
    """Cross-validation: the patients that are not for test are dealt to so many folds."""
    fold: int = Field(0, ge=0)
    """The fold, from 0, that is the validation split."""
    list_uri: str | None = None
    """CSV file with the columns `patient,split` that deals the patients instead. Patients are named as in the source,
    or by their pseudonyms."""

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        val_fraction = 0 if self.num_folds else self.val_fraction
        if val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {val_fraction} + test_fraction {self.test_fraction} leave nothing to train on; "
                "their sum must be below 1"
            )
        if self.fold >= (self.num_folds or 1):
            raise ValueError(f"fold {self.fold} is not one of {self.num_folds or 'no'} folds, counted from 0")
        return self


class PrepareConfig(Config):
    source: str
    """Folder of the annotated images: a path that all machines of the cluster see, `s3://...`, a data set of the
    Hugging Face hub: `hf://datasets/owner/name[@revision][/path]`, or a project of Label Studio by its number,
    `label_studio://7`."""
    out: KeptUri
    """URI of the prepared data set. Empty, or a former prepared data set, which is replaced."""
    nnunet_out: KeptUri | None = None
    """Folder for the same samples in the layout of nnU-Net v2, for nnU-Net itself: `.../nnUNet_raw/Dataset001_vessels`.
    Empty, or written so before. `jobs.baseline kind=nnunet` needs none."""
    label_studio: LabelStudioConfig | None = None
    """The server of `source=label_studio://PROJECT`. Its images lie in a temporary folder while the job works; in a
    cluster of several machines let TMPDIR name one that all of them see."""
    patient_pattern: PatientPattern = DEFAULT_PATIENT_PATTERN
    """Regular expression that matches the whole path of an image below `source`, without its suffix. Group `patient`
    is needed; without `run` a patient has one run; without `frame` (a whole number) every image is frame 0. DICOM
    files say it themselves."""
    label_pattern: str | None = None
    """How the path of a label (mask image or LabelMe file) below `source` follows from that of its image:
    `labels/{stem}_vessel.png`, `{parent}/masks/{stem}.gif`, `images/{id}_*.tif -> manual/{id}_manual1.gif`.
    `{folder}` is the image's folder, `{parent}` the one above, `{stem}` its name without suffix. Without it the layout
    is found out."""
    pairs: Uri | None = None
    """CSV file that names the images and their labels instead, whatever they are called: a line `image,label,patient`,
    then one for each image. Images and labels (mask images or LabelMe files) are paths below `source`. The column
    `patient` may be left out, or empty: `patient_pattern` then tells the patient."""
    phrase: str = Field("blood vessels", pattern=r"\S")
    """What the objects are called where the annotation does not say it."""
    classes: dict[
        Annotated[str, Field(pattern=r"\S")], Annotated[tuple[StrictInt | str, ...], Field(min_length=1)]
    ] = {}
    """Several classes: what each phrase is called in the annotations, `{artery: [A, 1], vein: [V, 2], ignore: [255]}`:
    labels, categories, texts; values of mask images, or their colours (`"#ff0000"`, in quotes). `ignore` is no phrase:
    what is neither object nor background. What is not listed is refused."""
    ignore_labels: tuple[Annotated[str, Field(pattern=r"\S")], ...] = ()
    """Objects of these labels, categories or texts are left out, whatever their shape: `[fovea, "optic disc"]`. For
    marks that have no area, and for what is not to be learnt. Spelt as in the annotation."""
    on_crowd: Literal["quarantine", "ignore", "use"] = "quarantine"
    """What to do with an image that has COCO crowd regions (`iscrowd` 1) beside objects: leave the image out, ignore
    what the regions cover, as neither object nor background (COCO means by them what is not to be learnt), or use them
    (CVAT marks masks of its brush so)."""
    negatives: Literal["refuse", "allow"] = "refuse"
    """What to do with an image whose label names no object, or is an empty mask: leave it out, since it may be a slip,
    or take it as an image without the object. The model learns to answer that there is none, and an evaluation counts
    false alarms there."""
    negatives_list: Uri | None = None
    """Text file with the path of an image below `source` on each line: images that have no object, whatever `negatives`
    says. They need no label."""
    annotators: Literal["refuse", "majority", "staple"] = "refuse"
    """What to do with an image that several people annotated. `refuse`: of Label Studio's tasks it is left out, of data
    sets with a second observer the first one's label is the truth. `majority`: the truth is what more than half of them
    drew. `staple`: what is likely when each weighs as much as the others bear him out (Warfield 2004). With both each
    one's objects are kept, and `jobs.evaluate` measures how well people agree."""
    label_size: tuple[_Side, _Side] | None = None
    """(H, W) of the frame that polygons were drawn in, for images that their polygons do not fit. Only where the
    annotations do not state their size: what they state is used without being asked."""
    mask_threshold: int | None = Field(None, ge=1, le=65_535)
    """In mask images with more than two values, the least value of the foreground. Not beside `classes` of values."""
    pixel_spacing_mm: tuple[_Spacing, _Spacing] | None = None
    """(row, column): how far rows and columns of all images are apart, in millimetres, whatever their files say.
    Without it DICOM and TIFF files are asked. Evaluations use it; nothing is resized."""
    checks: ChecksConfig = ChecksConfig()
    split: SplitConfig = SplitConfig()
    private_table: KeptUri | None = None
    """Local CSV file, for your eyes only, that tells which file of the source each item of the report and of the
    quarantine is. It names patients as the source does: outside of `out` and `source`, on the machine that the job
    runs on, readable by you alone."""
    pseudonym_key_file: KeptUri | None = None
    """Local file with the secret key of the pseudonyms, readable by you alone (mode 0600). Without it the environment
    is asked: `SA2VA_PSEUDONYM_KEY`, or the file that `SA2VA_PSEUDONYM_KEY_FILE` names."""
    max_quarantined_fraction: float = Field(0.05, ge=0, le=1)
    """With a larger share of the samples in quarantine no data set is written, and the exit status is 1."""
    validate_only: bool = False
    """Only the report is written, to `out`/validation."""

    @model_validator(mode="after")
    def _knows_label_studio(self) -> Self:
        if self.source.startswith(SCHEME):
            if project_number(self.source) is None:
                raise ValueError(f"source: after {SCHEME} stands the number of a project, as {SCHEME}7")
            if self.label_studio is None:
                raise ValueError(
                    "source is a project of Label Studio, and label_studio.url does not say where: give "
                    "label_studio.url=http://127.0.0.1:8080, and the token in the environment's LABEL_STUDIO_TOKEN"
                )
        return self

    @field_validator("nnunet_out")
    @classmethod
    def _is_found_by_nnunet(cls, uri: str | None) -> str | None:
        if uri is not None and not re.search(r"/Dataset\d{3}_[\w.-]+/?$", uri):
            raise ValueError(
                "nnU-Net finds data sets by the names of their folders: end it with a name as Dataset001_vessels"
            )
        return uri

    @model_validator(mode="after")
    def _has_names_for_nnunet(self) -> Self:
        phrases = {self.phrase, *self.classes} - {IGNORE if self.classes else ""}
        if self.nnunet_out and (reserved := phrases & {*RESERVED}):
            raise ValueError(
                f"the phrase '{reserved.pop()}' means something else in nnU-Net's dataset.json: give it another name "
                "in `classes` or `phrase`, or leave nnunet_out out"
            )
        return self

    @field_validator("private_table", "pseudonym_key_file")
    @classmethod
    def _stays_here(cls, path: str | None) -> str | None:
        if path is not None and not is_local(path):
            raise ValueError("holds a secret and stays on the machine that the job runs on: give a local path")
        return path

    @field_validator("classes")
    @classmethod
    def _are_classes(cls, classes: dict[str, tuple[int | str, ...]]) -> dict[str, tuple[int | str, ...]]:
        return {phrase: tuple(meaning) for phrase, meaning in Classes.parse(classes.items()).meanings.items()}

    @model_validator(mode="after")
    def _mask_is_read_in_one_way(self) -> Self:
        if self.mask_threshold is not None and Classes(self.classes).has_values:
            raise ValueError(
                f"mask_threshold {self.mask_threshold} and classes with values or colours of masks: a mask is read by "
                "one of the two. Leave mask_threshold out; or list no values, and all above it is one `phrase`"
            )
        return self

    @model_validator(mode="after")
    def _finds_labels_in_one_way(self) -> Self:
        if self.pairs and self.label_pattern:
            raise ValueError("pairs and label_pattern: labels are found by one of the two. Leave the other out")
        return self

    @field_validator("phrase")
    @classmethod
    def _is_phrase(cls, phrase: str) -> str:
        return to_phrase(phrase)  # as those of annotations are compared

    @field_validator("label_pattern")
    @classmethod
    def _is_label_pattern(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        return LabelPattern(unicodedata.normalize("NFC", pattern)).text  # as names of files are compared
