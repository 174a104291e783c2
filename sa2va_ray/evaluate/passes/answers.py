"""A model's answers to the questions of a split, as a Ray Data job.

Nothing here knows the true masks: `read_questions` leaves them behind, and the actor that holds the model is given
pictures and phrases only. They meet the answers in `measure.py`.
"""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import ray

from sa2va_ray.cluster.resources import check_paths, pool_arguments
from sa2va_ray.config import UserError
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.data.sample import decode_image
from sa2va_ray.evaluate.config import PassConfig
from sa2va_ray.evaluate.inputs import MeasuredModel, Split
from sa2va_ray.images.checks import codec_errors
from sa2va_ray.images.decode import ImageError
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.metrics import quantise
from sa2va_ray.models.sa2va.generation_sa2va import TooManyMasksError
from sa2va_ray.predict.job.config import TTA
from sa2va_ray.predict.job.tta import Averaged, predict_each
from sa2va_ray.predict.load import load_predictor
from sa2va_ray.predict.predictor import Prediction, Query, most_masks

NO_SEG, UNREADABLE, TOO_MANY_MASKS = "no_seg", "image_unreadable", "too_many_masks"
_CPUS_PER_READER = 0.25  # waits for storage; other than an actor's, or Ray Data would read in the actor's process
_ROWS_PER_BLOCK = 8
_Row = dict[str, Any]


def answer_questions(model: MeasuredModel, split: Split, config: PassConfig) -> ray.data.Dataset:
    """Asks the model for every object of the split, lazily.

    Returns:
        one row per object of each image, in any order: `row` (the sample's number in the split), `place` (the object's
        in the sample), `sample_id`, `patient_id`, `phrase`, and what `AnswerActor` adds.

    Raises:
        UserError: the cluster has not, and cannot start, what the actors want; local paths on several nodes.
    """
    actors = pool_arguments(config)
    check_paths(config, model=model.uri, data_uri=split.data_uri)
    num_blocks = -(-split.num_images // _ROWS_PER_BLOCK)
    # Not `ray.data.range`, whose tasks want a whole CPU: beside an actor and an endpoint two cores have none.
    rows = ray.data.from_items([{"id": row} for row in range(split.num_images)], override_num_blocks=num_blocks)
    questions = rows.map_batches(
        partial(read_questions, split=split),
        batch_size=None,
        num_cpus=_CPUS_PER_READER,
    )
    return questions.map_batches(AnswerActor, fn_constructor_args=(model, config.tta), **actors)


def read_questions(batch: Mapping[str, np.ndarray], split: Split) -> dict[str, list]:
    """Turns numbers of samples into what is asked of the model: images and phrases, without their masks."""
    samples = split.open().read(batch["id"])
    return to_columns(
        [
            {
                "row": row,
                "place": place,
                "sample_id": sample["sample_id"],
                "patient_id": sample["patient_id"],
                "image": sample["image"],
                "phrase": each["phrase"],
            }
            for row, sample in zip(batch["id"].tolist(), samples, strict=True)
            for place, each in enumerate(sample["objects"])
        ]
    )


class AnswerActor:
    """Holds the model and turns questions into answers.

    It adds `text`; `failure`, "" or why there is no mask; `rle`, the COCO RLE of all masks of the answer together,
    `mask_sha256`, of its pixels, and `levels`, a 16-bit PNG of the probabilities in `quantise`'s levels (these three
    empty where there is nothing to measure, see `has_pixels`).

    Raises:
        UserError: the model cannot be loaded, or is not any more what `model` says.
    """

    def __init__(self, model: MeasuredModel, tta: TTA):
        self._tta = tta
        loaded = self._predictor = load_predictor(model.uri)
        expected = (model.facts.sha256, model.facts.threshold, model.facts.cleanup)
        if (loaded.sha256, loaded.threshold, loaded.cleanup) != expected:
            raise UserError(f"{model.uri} was written or calibrated while it was measured. Start again.")

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list]:
        questions = to_rows(batch)
        queries = [_query(question) for question in questions]
        asked = [query for query in queries if query]
        predictions = iter(predict_each(self._predictor, asked, self._tta))
        return to_columns(
            [
                {name: value for name, value in question.items() if name != "image"}
                | (_to_row(next(predictions)) if query else _nothing(UNREADABLE))
                for question, query in zip(questions, queries, strict=True)
            ]
        )


def to_rows(batch: Mapping[str, Any]) -> list[_Row]:
    """The rows of a batch of Ray Data's."""
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def to_columns(rows: list[_Row]) -> dict[str, list]:
    """Rows as Ray Data wants a batch."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def has_pixels(answer: _Row) -> bool:
    """Whether an answer is one of masks, perhaps of none; without, it counts as an empty mask."""
    return answer["failure"] in ("", NO_SEG)


def mask_sha256(mask: np.ndarray) -> str:
    """Hash of an (H, W) bool mask's size and pixels (64 hex characters)."""
    return hashlib.sha256(f"{mask.shape} ".encode() + np.packbits(mask).tobytes()).hexdigest()


def _query(question: _Row) -> Query | None:
    """None where the image cannot be read."""
    try:
        with codec_errors():
            image = decode_image(question)
    except ImageError:
        return None
    return Query(image, evaluation_prompt(question["phrase"]), max_masks=most_masks(image.height, image.width))


def _to_row(averaged: Averaged | TooManyMasksError) -> _Row:
    return _nothing(TOO_MANY_MASKS) if isinstance(averaged, TooManyMasksError) else to_answer(averaged.prediction)


def to_answer(prediction: Prediction) -> _Row:
    """What `AnswerActor` adds for a prediction."""
    mask = prediction.union()
    probability = np.max(prediction.probabilities, axis=0, initial=0.0)  # a union's: above any threshold if one is
    _, levels = cv2.imencode(".png", quantise(probability), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return {
        "text": prediction.text,
        "failure": "" if len(prediction.masks) else NO_SEG,
        "rle": mask_to_rle(mask),
        "mask_sha256": mask_sha256(mask),
        "levels": levels.tobytes(),
    }


def _nothing(failure: str) -> _Row:
    nothing = {"size": [0, 0], "counts": ""}
    return {"text": "", "failure": failure, "rle": nothing, "mask_sha256": "", "levels": b""}
