"""From what the model found to what is sent."""

import json
from typing import Any

import numpy as np
from fastapi import Response

from sa2va_ray.serve.ask import Asked
from sa2va_ray.serve.exchange import Exchange
from sa2va_ray.serve.formats import to_png, to_probability_png
from sa2va_ray.serve.protocol import AnsweringModel, SegmentOptions, SegmentReply, to_answer

PNG = "image/png"


def to_body(pixels: np.ndarray, asked: Asked, options: SegmentOptions, exchange: Exchange) -> bytes:
    """A `SegmentReply` as JSON; ends the stage `encode`."""
    findings = asked.answers.findings
    answers = [to_answer(*each, options.output) for each in zip(asked.prompts, findings, strict=True)]
    exchange.lap("encode")
    reply = SegmentReply(
        request_id=exchange.request_id,
        model=AnsweringModel(
            name=asked.model_name,
            sha256=asked.answers.sha256,
            threshold=asked.answers.threshold,
            cleanup=asked.answers.cleanup,
        ),
        height=pixels.shape[0],
        width=pixels.shape[1],
        threshold=findings[0].threshold,
        cleanup=findings[0].cleanup,
        answers=answers,
        timing_ms=exchange.timing_ms,
    )
    return reply.model_dump_json(exclude_none=True).encode()


def to_picture(asked: Asked, options: SegmentOptions, exchange: Exchange) -> Response:
    """All masks of all answers in one PNG, and whose they are in the headers."""
    findings = asked.answers.findings
    if options.output == "probability":
        body = to_probability_png(np.concatenate([each.probabilities for each in findings]))
    else:
        body = to_png(np.any([each.masks().any(axis=0) for each in findings], axis=0))
    headers = {
        "X-Model-Name": asked.model_name,
        "X-Model-SHA256": asked.answers.sha256,
        "X-Threshold": str(findings[0].threshold),
    }
    return Response(exchange.gave(body), media_type=PNG, headers=headers)


def problem_line(index: int, problem: dict[str, Any]) -> bytes:
    """A line of /v1/segment/batch for an image that failed."""
    return json.dumps({"index": index, "problem": problem}).encode() + b"\n"
