"""Tasks of Label Studio: an image, the model's masks as a prediction, and what leads back to both."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sa2va_ray.config import UserError
from sa2va_ray.data.conversation import asks_for, phrase_of
from sa2va_ray.label_studio.interface import LabelConfig
from sa2va_ray.label_studio.prediction import PROVENANCE, brush_region, model_version
from sa2va_ray.labelling.candidates import Predictions
from sa2va_ray.labelling.ranking import Candidate

_DIGITS = 4


def default_interface(label: str | None, prompt: str) -> LabelConfig:
    """Where there is no project yet: one label, the phrase that was asked for.

    Raises:
        UserError: a prompt that asks for no phrase, and no `label`.
    """
    label = label or phrase_of(prompt)
    if label is None:
        raise UserError("The prompt of the predictions names no phrase that the masks could be called by: give label=.")
    return LabelConfig("tag", "image", "image", (label,))


def choose_label(interface: LabelConfig, label: str | None, prompt: str) -> str:
    """The label of the masks: the one that is given, that was asked for, or the only one.

    Raises:
        UserError: none of these is in the project.
    """
    labels = interface.labels
    fitting = [each for each in labels if (each == label if label else asks_for(prompt, each))]
    if fitting or (not label and len(labels) == 1):
        return (fitting or labels)[0]
    what = "`label`" if label else "the phrase that was asked for"
    raise UserError(
        f"The labelling interface has {len(labels)} labels of its brush ({', '.join(labels)}), and {what} is none of "
        "them. Say with label= which one the masks are."
    )


@dataclass(frozen=True)
class Queued:
    """An image at its place in the queue.

    Attributes:
        address: how Label Studio finds it; None where it has to be uploaded first.
        rles: of `mask_to_brush_rle`, one for each mask that has pixels.
    """

    candidate: Candidate
    address: str | None = field(repr=False)
    rles: list[list[int]] = field(repr=False)


@dataclass(frozen=True)
class Tasks:
    """Makes the tasks of one queue.

    Attributes:
        label: of all masks.
    """

    interface: LabelConfig
    label: str
    predictions: Predictions

    @property
    def model_version(self) -> str:
        return model_version(self.predictions.model, self.predictions.model_sha256)

    def task(self, candidate: Candidate, image: str, rles: Sequence[list[int]]) -> dict[str, Any]:
        """As Label Studio imports it.

        Args:
            image: how Label Studio finds it.
            rles: of `mask_to_brush_rle`, one for each mask.
        """
        data = {self.interface.data_key: image, PROVENANCE: self.provenance(candidate)}
        return {"data": data, "predictions": [self.prediction(candidate, rles)]}

    def prediction(self, candidate: Candidate, rles: Sequence[list[int]]) -> dict[str, Any]:
        """Its score is how sure the model is: Label Studio's uncertainty sampling shows low ones first."""
        row = candidate.row
        size = (row["height"], row["width"])
        regions = [brush_region(self.interface, self.label, row["score"], size, rle) for rle in rles]
        score = round(1 - candidate.uncertainty, _DIGITS)
        return {"model_version": self.model_version, "score": score, "result": regions}

    def provenance(self, candidate: Candidate) -> dict[str, Any]:
        """Which image it is, by its hash and by its path below the source, which `patient_pattern` is held against
        when the labels come back; and what the model said."""
        row = candidate.row
        return {
            "id": candidate.id,
            "name": candidate.item.source.name,
            "source_sha256": row["source_sha256"],
            "model_sha256": row["model_sha256"],
            "uncertainty": round(candidate.uncertainty, _DIGITS),
        }
