"""The result of fitting a baseline, of any kind."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FittedBaseline:
    """Attributes:
    files: name -> content, of the model folder.
    threshold: of the probabilities, in [0, 1].
    metrics: on the training patients, by name.
    """

    files: dict[str, bytes]
    threshold: float
    metrics: dict[str, float]
