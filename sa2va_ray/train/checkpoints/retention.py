"""Which checkpoints of a run are kept: the newest ones, and the best by a metric."""

from sa2va_ray import storage
from sa2va_ray.manifest import MANIFEST, DamagedError
from sa2va_ray.models.checkpoint import (
    StoredCheckpoint,
    list_checkpoints,
    list_step_folders,
    ranked_checkpoints,
    read_stored_checkpoint,
)


def delete_old_checkpoints(run_uri: str, keep_newest: int, keep_best: int, metric: str) -> None:
    """Deletes the sound checkpoints of a run but the newest `keep_newest` and the `keep_best` with the highest
    `metric`; of several with the score of one validation, the one that was saved soonest after it is the best. Those
    without the metric, or with one that is not finite, are not among the best. Damaged ones do not count, and are left
    to people."""
    found = list_checkpoints(run_uri)
    if len(found) <= keep_newest:
        return
    sound = [saved for saved in map(_read, found) if saved]
    best = ranked_checkpoints(sound, metric)[:keep_best]
    kept = {saved.uri for saved in [*sound[-keep_newest:], *best]}
    for uri in [saved.uri for saved in sound if saved.uri not in kept]:
        storage.delete_tree(uri, first=MANIFEST)  # so that what is half deleted is no checkpoint


def delete_remains(run_uri: str, saved_uri: str) -> None:
    """Deletes what a deletion, or a save, that was cut off has left of steps before one that has just been saved: no
    rank saves such a step any more. After it one may, also where the run has a newer checkpoint that is damaged."""
    folders = list_step_folders(run_uri)
    complete = list_checkpoints(run_uri)
    for uri in folders[: folders.index(saved_uri)]:
        if uri not in complete:
            storage.delete_tree(uri)


def _read(uri: str) -> StoredCheckpoint | None:
    try:
        return read_stored_checkpoint(uri)
    except DamagedError:
        return None
