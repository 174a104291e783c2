"""Bodies of the replies to Label Studio: predictions, in which each mask is a region of brush strokes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sa2va_ray.images.brush_rle import mask_to_brush_rle
from sa2va_ray.label_studio.interface import LabelConfig
from sa2va_ray.label_studio.prediction import brush_region, model_version
from sa2va_ray.serve.http.encode.polygons import num_points
from sa2va_ray.serve.http.encode.replies import check_num_points, encode_json
from sa2va_ray.serve.http.model_handles import SegmentedImage
from sa2va_ray.serve.http.record import RequestRecord
from sa2va_ray.serve.messages import ModelReply
from sa2va_ray.serve.problems import Problem


def health_reply() -> dict[str, Any]:
    """Body of the reply of `/health`."""
    return {"status": "UP", "model_class": "Sa2VA"}


def setup_reply(version: str) -> dict[str, Any]:
    """Body of the reply of `/setup`."""
    return {"model_version": version}


def encode_prediction(
    config: LabelConfig, max_points: int, segmented: SegmentedImage, record: RequestRecord
) -> dict[str, Any]:
    """Makes a `task_prediction` of what the model found; ends the stage `encode`.

    Raises:
        Problem: outlines of more than `max_points` points in all.
    """
    check_num_points(segmented.reply.results, max_points, num_points)
    prediction = task_prediction(config, segmented.model_name, segmented.reply)
    record.end_stage("encode")
    record.set_output(encode_json(prediction))
    return prediction


def task_prediction(config: LabelConfig, model_name: str, reply: ModelReply) -> dict[str, Any]:
    """What `/predict` replies for one task: a region for each mask that has pixels, and the mean of the scores.

    Args:
        reply: with a result for each label, in order.
    """
    regions = [
        brush_region(config, label, result.score, mask.shape, mask_to_brush_rle(mask))
        for label, result in zip(config.labels, reply.results, strict=True)
        for mask in result.masks()
        if mask.any()
    ]
    score = float(np.mean([result.score for result in reply.results]))
    return {"result": regions, "score": score, "model_version": model_version(model_name, reply.calibration.sha256)}


def predict_reply(
    predictions: Sequence[dict[str, Any] | Problem], version: str, request_id: str | None = None
) -> dict[str, Any]:
    """Body of the reply of `/predict`: a result for each task, in their order, as Label Studio wants it. For a task
    that failed alone it has no region, a `model_version` that says so, which annotators see, and the problem document.

    Raises:
        Problem: no task went well, or one would if it were asked again later.
    """
    problems = [each for each in predictions if isinstance(each, Problem)]
    temporary = [problem for problem in problems if problem.retry_after_s is not None]
    if temporary or (problems and len(problems) == len(predictions)):
        raise (temporary or problems)[0]
    return {"results": [_result(each, version, request_id) for each in predictions]}


def _result(prediction: dict[str, Any] | Problem, version: str, request_id: str | None) -> dict[str, Any]:
    if not isinstance(prediction, Problem):
        return prediction
    failed = {"model_version": f"{version} failed: {prediction.title}", "problem": prediction.document(request_id)}
    return {"result": [], "score": 0.0, **failed}
