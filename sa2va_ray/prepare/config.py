"""Config of the prepare job."""

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from sa2va_ray.config import Config


class PrepareConfig(Config):
    source: str
    """Folder with the images and their `annotations.json`. All machines of the cluster must see it."""
    out: str
    """URI of the prepared data set. Empty, or a former prepared data set, which is replaced."""
    patient_pattern: str = r"(?P<patient>[^_]+)_frame_(?P<frame>\d+)"
    """Regular expression that matches the whole name of an image file, without folder and suffix. Group `patient` is
    needed; without `run` a patient has one run; without `frame` (a whole number) every image is frame 0."""
    phrase: str = Field("blood vessels", min_length=1)
    """What the objects are called where the annotation does not say it."""
    val_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the patients in the validation split."""
    test_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the patients in the test split."""
    split_seed: int = 0
    """Another seed deals the patients to the splits anew."""
    max_quarantined_fraction: float = Field(0.05, ge=0, le=1)
    """With a larger share of the samples in quarantine nothing is written."""

    @field_validator("patient_pattern")
    @classmethod
    def _has_patient(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if "patient" not in groups:
            raise ValueError("has no group (?P<patient>...), so images could not be split by patient")
        return pattern

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {self.val_fraction} + test_fraction {self.test_fraction} leave nothing to train on; "
                "their sum must be below 1"
            )
        return self
