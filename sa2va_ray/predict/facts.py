"""What an exported model says of itself in its manifest, whatever kind it is of."""

from dataclasses import dataclass
from typing import Any

from sa2va_ray.manifest import digest
from sa2va_ray.models.model_manifest import UNCALIBRATED_THRESHOLD, read_model_manifest
from sa2va_ray.predict.cleanup import CleanupConfig


@dataclass(frozen=True)
class ModelFacts:
    """Attributes:
    sha256: digest of the exported folder (64 hex characters); None for a folder without a manifest.
    kind: which loader takes it (`load.py`).
    threshold, cleanup: the model's own, for queries that give none; the threshold is in [0, 1].
    """

    name: str
    sha256: str | None
    kind: str
    threshold: float
    cleanup: CleanupConfig

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any] | None) -> "ModelFacts":
        """None is a folder that has no manifest, such as upstream's."""
        facts = manifest or {}
        return cls(
            name=facts.get("name", "sa2va"),
            sha256=digest(facts) if facts else None,
            kind=facts.get("kind", "sa2va"),
            threshold=facts.get("threshold", UNCALIBRATED_THRESHOLD),
            cleanup=CleanupConfig.parse(facts.get("cleanup", {})),
        )


def read_model_facts(uri: str) -> ModelFacts:
    """Without loading the model. The sizes of its files are checked; their hashes when it is loaded.

    Raises:
        UserError: no exported model, or one with files missing.
    """
    return ModelFacts.from_manifest(read_model_manifest(uri))
