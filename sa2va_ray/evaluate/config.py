"""What `jobs.evaluate` and `jobs.calibrate` take."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sa2va_ray.cluster.config import PoolConfig
from sa2va_ray.metrics import TOLERANCE_PX
from sa2va_ray.predict.job.config import TTA
from sa2va_ray.storage import KeptUri, Uri


class PassConfig(PoolConfig):
    """One pass of a model over one split."""

    model: Uri
    """Folder of an exported model or a baseline, with its `sa2va_manifest.json`."""
    data_uri: Uri
    """Prepared data set."""
    allow_train_split: bool = False
    """Go on where the model was trained on the split; the report then says so in its title."""
    tta: TTA = "none"
    """Test-time augmentation: `flips` averages over the image and its three mirror images, as `jobs.predict` does."""


class EvaluateConfig(PassConfig):
    """One evaluation."""

    against: Uri | None = None
    """A second model, measured on the same images; the report has the paired differences, `model` minus `against`."""
    out: KeptUri
    """Folder for `metrics.json`, `images.jsonl` and `report.html`."""
    split: Literal["train", "val", "test"] = "test"
    """Whose patients are measured. One that the model was trained on is refused, unless `allow_train_split`."""
    surface_tolerance_px: float = Field(TOLERANCE_PX, ge=0, le=256)
    """How far an outline may be off and still count as right, in the surface Dice."""


class CalibrateConfig(PassConfig):
    """One choice of a threshold, which is kept in the model's manifest."""

    model: KeptUri
    """Folder of an exported model or a baseline; the threshold is written into its `sa2va_manifest.json`."""
    split: Literal["train", "val", "test"] = "val"
    """Whose patients choose the threshold."""
    objective: Literal["dice", "fbeta", "recall"] = "dice"
    """What is best: the greatest mean Dice or F-beta, or of the thresholds that reach `recall_target` the highest."""
    beta: float | None = Field(None, gt=0, le=100)
    """How many times as much recall counts as precision; for `objective=fbeta` only."""
    recall_target: float | None = Field(None, gt=0, le=1)
    """Least mean recall; for `objective=recall` only."""
    tune_cleanup: bool = False
    """Also choose what is done to the mask: least component, largest hole that is filled. Without it, nothing is."""
    out: KeptUri | None = None
    """Folder for `calibration.html`; the model's own by default."""
    allow_test_split: bool = False
    """Go on with `split=test`, which then can no longer tell how good the model is on new patients."""

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
        for objective, key in (("fbeta", "beta"), ("recall", "recall_target")):
            is_given = getattr(self, key) is not None
            if is_given != (self.objective == objective):
                raise ValueError(f"objective={objective} and {key} go together; objective is {self.objective}")
        return self
