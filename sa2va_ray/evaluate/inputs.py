"""What is measured, and on what: a model and a split, by their manifests; and what is refused of them."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sa2va_ray.config import UserError
from sa2va_ray.data.sample_index import SampleIndex, read_split
from sa2va_ray.images.consensus import Consensus
from sa2va_ray.manifest import digest
from sa2va_ray.models.model_manifest import read_model_manifest, update_model_manifest
from sa2va_ray.predict.facts import ModelFacts
from sa2va_ray.telemetry import LOGGER


@dataclass(frozen=True)
class Split:
    """A split of a prepared data set, as its manifest tells.

    Attributes:
        sha256: over the hashes of the split's own files; `data_sha256` is over those of the whole data set.
        consensus: how one truth is made of several annotators' masks.
    """

    data_uri: str
    name: str
    data_sha256: str
    sha256: str
    num_images: int
    consensus: Consensus = "majority"

    @classmethod
    def read(cls, data_uri: str, name: str) -> "Split":
        """Reads the data set's manifest. Raises like `read_split`."""
        manifest, num_rows = read_split(data_uri, name)
        files = {file: manifest["files"][file]["sha256"] for file in num_rows}
        sha256 = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        consensus: Consensus = "staple" if manifest.get("consensus") == "staple" else "majority"
        return cls(data_uri, name, digest(manifest), sha256, sum(num_rows.values()), consensus)

    def open(self) -> SampleIndex:
        """Its samples. Raises `UserError` where the data set was written anew meanwhile."""
        return SampleIndex(self.data_uri, self.name, self.data_sha256)


@dataclass(frozen=True)
class MeasuredModel:
    """A model that is to be measured, as its manifest tells; its weights are not read."""

    uri: str
    manifest: dict[str, Any]

    @classmethod
    def read(cls, uri: str) -> "MeasuredModel":
        """Reads the model's manifest.

        Raises:
            UserError: no manifest, without which nothing is known of what the model was trained on; or missing files.
        """
        return cls(uri, read_model_manifest(uri))

    @property
    def facts(self) -> ModelFacts:
        """Name, hash, threshold and clean-up of the model."""
        return ModelFacts.from_manifest(self.manifest)

    def was_trained_on(self, split: Split) -> bool:
        """Whether the model has seen the split in training. Manifests that do not name the splits are older than the
        question: those models trained on `train`."""
        is_same_data = self.manifest.get("data_sha256") == split.data_sha256
        return is_same_data and split.name in self.manifest.get("trained_splits", ["train"])

    def was_calibrated_on(self, split: Split) -> bool:
        """Whether the model's threshold was chosen on the split."""
        calibration = self.manifest.get("calibration", {})
        return (calibration.get("data_sha256"), calibration.get("split")) == (split.data_sha256, split.name)

    def store(self, facts: dict[str, Any]) -> None:
        """Puts facts into the manifest, in place of those of the same names; its digest stays.

        Raises:
            UserError: other files are there than when the manifest was read.
        """
        if MeasuredModel.read(self.uri).facts.sha256 != self.facts.sha256:
            raise UserError(f"{self.uri} was written anew while it was calibrated. Start again.")
        update_model_manifest(self.uri, facts)

    def refuse_if_trained_on(self, split: Split, allow: bool) -> None:
        """Warns where that is known and wanted.

        Raises:
            UserError: the model has seen these images in training, and nobody said that this is known.
        """
        if not self.was_trained_on(split):
            return
        if not allow:
            raise UserError(
                f"{self.uri} was trained on the split '{split.name}' of this data set ({split.data_sha256[:12]}): what "
                "is measured there says nothing about new patients. Take split=test, or say allow_train_split=true; "
                "the report then says so in its title."
            )
        LOGGER.warning("%s is measured on the split that it was trained on", self.facts.name)
