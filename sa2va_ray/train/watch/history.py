"""The curves of a run as rows by step, kept in its folder beside `run.json`: what its page is drawn from."""

import json
from collections.abc import Mapping, Sequence

from sa2va_ray import storage
from sa2va_ray.telemetry import LOGGER

HISTORY_FILE = "history.jsonl"

_MAX_TRAIN_ROWS = 2000
_LOSS = "train/loss"

Row = Mapping[str, float]
"""`step`, and values by the names of `Reporter`'s metrics: those of a line of the log, or of a validation."""


class RunHistory:
    """Rows in the order of their steps. Of training as many are kept as a chart can show, of validation all."""

    def __init__(self, rows: Sequence[Row] = ()):
        self.rows: list[Row] = list(rows)
        """Read it as a whole: it is replaced, not only added to."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append({"step": step, **values})
        if sum(_LOSS in row for row in self.rows) > _MAX_TRAIN_ROWS:
            self.rows = _thinned(self.rows)

    def to_bytes(self) -> bytes:
        """The content of `history.jsonl`."""
        return "".join(f"{json.dumps(row)}\n" for row in list(self.rows)).encode()


def read_history(run_uri: str, last_step: int | None = None) -> RunHistory:
    """The history that lies in a run's folder; empty where none does, or where it is damaged.

    Args:
        last_step: of the checkpoint that the run goes on from. What was reported of later steps is left out: they are
            done again.
    """
    uri = storage.join(run_uri, HISTORY_FILE)
    try:
        rows = [json.loads(line) for line in storage.read_bytes(uri).splitlines()]
        last_step = max((row["step"] for row in rows), default=0) if last_step is None else last_step
        return RunHistory([row for row in rows if row["step"] <= last_step])
    except FileNotFoundError:
        return RunHistory()
    except (ValueError, KeyError, TypeError):
        LOGGER.warning("%s is damaged: the curves of the run's page begin anew", uri)
        return RunHistory()


def _thinned(rows: Sequence[Row]) -> list[Row]:
    """Without every second row of training."""
    kept, is_odd = [], False
    for row in rows:
        if _LOSS in row:
            is_odd = not is_odd
        if _LOSS not in row or is_odd:
            kept.append(row)
    return kept
