"""Bodies of replies, made from what the model found."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import Response

from sa2va_ray.serve.http.encode.output_forms import OUTPUT_FORMS, OutputForm
from sa2va_ray.serve.http.encode.png import mask_to_png, probabilities_to_png
from sa2va_ray.serve.http.model_handles import SegmentedImage
from sa2va_ray.serve.http.protocol import Answer, AnsweringModel, Mask, SegmentReply
from sa2va_ray.serve.http.record import RequestRecord
from sa2va_ray.serve.messages import PromptResult
from sa2va_ray.serve.problems import Problem

PNG = "image/png"


def encode_reply(max_points: int, segmented: SegmentedImage, record: RequestRecord) -> bytes:
    """A `SegmentReply` as JSON; ends the stage `encode`.

    Raises:
        Problem: outlines of more than `max_points` points in all.
    """
    results = segmented.reply.results
    form = OUTPUT_FORMS[segmented.output]
    if form.count_points:
        check_num_points(results, max_points, form.count_points)
    answers = [
        _to_answer(prompt, result, segmented.output, form)
        for prompt, result in zip(segmented.prompts, results, strict=True)
    ]
    record.end_stage("encode")
    reply = SegmentReply(
        request_id=record.request_id,
        model=AnsweringModel(
            name=segmented.model_name,
            sha256=segmented.reply.calibration.sha256,
            threshold=segmented.reply.calibration.threshold,
            cleanup=segmented.reply.calibration.cleanup,
        ),
        height=segmented.height,
        width=segmented.width,
        threshold=results[0].threshold,
        cleanup=results[0].cleanup,
        answers=answers,
        timing_ms=record.timing_ms,
    )
    body = reply.model_dump_json(exclude_none=True).encode()
    record.set_output(body)
    return body


def encode_union_png(segmented: SegmentedImage, record: RequestRecord) -> Response:
    """All masks of all answers in one PNG, or the greatest of their probabilities, with the model in the headers; ends
    the stage `encode`."""
    results = segmented.reply.results
    form = OUTPUT_FORMS[segmented.output]
    union = np.zeros((segmented.height, segmented.width), np.uint16 if form.needs_probabilities else bool)
    for result in results:
        for layer in _layers(result, form):
            np.maximum(union, layer, out=union)
    body = probabilities_to_png(union) if form.needs_probabilities else mask_to_png(union)
    record.end_stage("encode")
    record.set_output(body)
    headers = {
        "X-Model-Name": segmented.model_name,
        "X-Model-SHA256": segmented.reply.calibration.sha256,
        "X-Threshold": str(results[0].threshold),
    }
    return Response(body, media_type=PNG, headers=headers)


def encode_json(reply: dict[str, Any]) -> bytes:
    """A reply as the bytes of its JSON."""
    return json.dumps(reply).encode()


def check_num_points(
    results: Sequence[PromptResult], max_points: int, count_points: Callable[[np.ndarray], int]
) -> None:
    """Checks how many points the outlines of all masks would have.

    Raises:
        Problem: the outlines of all masks have more points than `max_points`.
    """
    found = sum(count_points(mask) for result in results for mask in result.masks())
    if found > max_points:
        raise Problem(
            422,
            "Too many points",
            f"The outlines of the masks have {found:,} points, the limit is {max_points:,}.",
            "Ask for output 'rle' or 'png', which hold the same masks, or for clean-up with min_component_px.",
        )


def _to_answer(prompt: str, result: PromptResult, output: str, form: OutputForm) -> Answer:
    areas = result.masks().mean(axis=(1, 2)).tolist()
    return Answer(
        prompt=prompt,
        text=result.text,
        score=result.score,
        area_fraction=result.area_fraction,
        mean_confidence=result.mean_confidence,
        masks=[
            Mask(area_fraction=area, **{output: form.encode(layer)})
            for layer, area in zip(_layers(result, form), areas, strict=True)
        ],
    )


def _layers(result: PromptResult, form: OutputForm) -> np.ndarray:
    """What a form encodes: (N, H, W) masks, bool, or probabilities, uint16."""
    if not form.needs_probabilities:
        return result.masks()
    assert result.probabilities is not None, "ModelHandles.segment asks for them where the form needs them"
    return result.probabilities
