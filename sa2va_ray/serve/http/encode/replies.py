"""From what the model found to what is sent."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import Response

from sa2va_ray.serve.http.encode.polygons import num_points, to_png, to_probability_png
from sa2va_ray.serve.http.label_studio.replies import LabelConfig, task_prediction
from sa2va_ray.serve.http.model_handles import Asked
from sa2va_ray.serve.http.protocol import AnsweringModel, SegmentReply, to_answer
from sa2va_ray.serve.http.record import Exchange
from sa2va_ray.serve.messages import Finding
from sa2va_ray.serve.problems import Problem

PNG = "image/png"


def to_body(max_points: int, asked: Asked, exchange: Exchange) -> bytes:
    """A `SegmentReply` as JSON; ends the stage `encode`.

    Raises:
        Problem: polygons of more than `max_points` in all.
    """
    findings = asked.answers.findings
    if asked.output == "polygons":
        _check_points(findings, max_points)
    answers = [to_answer(*each, asked.output) for each in zip(asked.prompts, findings, strict=True)]
    exchange.lap("encode")
    reply = SegmentReply(
        request_id=exchange.request_id,
        model=AnsweringModel(
            name=asked.model_name,
            sha256=asked.answers.sha256,
            threshold=asked.answers.threshold,
            cleanup=asked.answers.cleanup,
        ),
        height=asked.height,
        width=asked.width,
        threshold=findings[0].threshold,
        cleanup=findings[0].cleanup,
        answers=answers,
        timing_ms=exchange.timing_ms,
    )
    return exchange.gave(reply.model_dump_json(exclude_none=True).encode())


def to_picture(asked: Asked, exchange: Exchange) -> Response:
    """All masks of all answers in one PNG, and whose they are in the headers; ends the stage `encode`."""
    findings = asked.answers.findings
    union = np.zeros((asked.height, asked.width), np.uint16 if asked.output == "probability" else bool)
    for finding in findings:
        maps = finding.probabilities if asked.output == "probability" else finding.masks()
        assert maps is not None, "Models.ask wants probabilities for this output"
        for each in maps:
            np.maximum(union, each, out=union)
    body = to_probability_png(union) if asked.output == "probability" else to_png(union)
    exchange.lap("encode")
    headers = {
        "X-Model-Name": asked.model_name,
        "X-Model-SHA256": asked.answers.sha256,
        "X-Threshold": str(findings[0].threshold),
    }
    return Response(exchange.gave(body), media_type=PNG, headers=headers)


def to_regions(config: LabelConfig, max_points: int, asked: Asked, exchange: Exchange) -> dict[str, Any]:
    """What Label Studio gets for a task; ends the stage `encode`. Raises as `to_body` does."""
    _check_points(asked.answers.findings, max_points)
    prediction = task_prediction(config, asked.model_name, asked.answers)
    exchange.lap("encode")
    exchange.gave(to_json(prediction))
    return prediction


def to_json(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode()


def problem_line(index: int, problem: dict[str, Any]) -> bytes:
    """A line of /v1/segment/batch for an image that failed."""
    return json.dumps({"index": index, "problem": problem}).encode() + b"\n"


def _check_points(findings: Sequence[Finding], most: int) -> None:
    found = sum(num_points(mask) for finding in findings for mask in finding.masks())
    if found > most:
        raise Problem(
            422,
            "Too many points",
            f"The outlines of the masks have {found:,} points, the limit is {most:,}.",
            "Ask for output 'rle' or 'png', which hold the same masks, or for clean-up with min_component_px.",
        )
