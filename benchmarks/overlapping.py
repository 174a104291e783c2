"""Many batches through a predictor, their stages overlapping as they do in the endpoint, without the endpoint."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sa2va_ray.predict.load import Predictor
from sa2va_ray.predict.predictor import Prediction, Query


def predict_batches(predictor: Predictor, batches: Iterable[Sequence[Query]]) -> Iterator[list[Prediction]]:
    """The predictions of each batch, in order. While the model is at work on one, the next is prepared and the one
    before is finished; what is in memory at a time are three batches.

    Args:
        batches: each of one or more queries.

    Raises:
        ImageError: an image cannot be used.
        TooManyMasksError: an answer has more masks than its query allows.
    """
    rest = iter(batches)
    with ThreadPoolExecutor(1) as preparing, ThreadPoolExecutor(1) as finishing:
        prepared = _submitted(preparing, predictor, rest)
        finished: Future[list[Prediction]] | None = None
        while prepared:
            this, prepared = prepared.result(), _submitted(preparing, predictor, rest)
            running = predictor.run(this)
            if finished:
                yield finished.result()
            finished = finishing.submit(predictor.finish, running)
        if finished:
            yield finished.result()


def _submitted(
    preparing: ThreadPoolExecutor, predictor: Predictor, batches: Iterator[Sequence[Query]]
) -> Future[Any] | None:
    """The next batch on its way; None behind the last."""
    batch = next(batches, None)
    return None if batch is None else preparing.submit(predictor.prepare, batch)
