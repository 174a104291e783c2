"""Which checkpoints of a run are kept: the newest ones, and the best by a metric."""

from sa2va_ray import storage
from sa2va_ray.manifest import MANIFEST
from sa2va_ray.models.checkpoint import list_checkpoints, read_state


def delete_old_checkpoints(run_uri: str, keep_newest: int, keep_best: int, metric: str) -> None:
    """Deletes the complete checkpoints of a run but the newest `keep_newest` and the `keep_best` with the highest
    `metric`. Those without the metric are not among the best."""
    found = list_checkpoints(run_uri)
    if len(found) <= keep_newest:
        return
    scores = {uri: read_state(uri).metrics.get(metric) for uri in found} if keep_best else {}
    scored = [uri for uri in found if scores.get(uri) is not None]
    best = sorted(scored, key=lambda uri: (scores[uri], uri), reverse=True)[:keep_best]
    for uri in set(found) - set(found[-keep_newest:]) - set(best):
        storage.delete_files(uri, [MANIFEST])  # first, so that what is half deleted is no checkpoint
        storage.delete_folder(uri)
