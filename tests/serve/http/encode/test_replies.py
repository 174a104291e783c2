"""From what a model found to a reply, and from what goes wrong on the way to a problem."""

import asyncio
import io

import grpc
import numpy as np
import pytest
from PIL import Image
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError, RequestCancelledError

from sa2va_ray.predict.cleanup import NO_CLEANUP
from sa2va_ray.predict.predictor import Prediction
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.http.encode.polygons import num_points, to_polygons
from sa2va_ray.serve.http.encode.replies import to_body, to_picture, to_regions
from sa2va_ray.serve.http.label_studio.replies import LabelConfig
from sa2va_ray.serve.http.model_handles import Asked, Models
from sa2va_ray.serve.http.protocol import ModelInfo, SegmentOptions
from sa2va_ray.serve.http.record import Exchange
from sa2va_ray.serve.messages import Answers, Finding, Question
from sa2va_ray.serve.problems import Problem

NOISE = np.random.default_rng(0).random((1, 40, 50)) > 0.5
LABELS = LabelConfig("tag", "image", "image", ("Vessel",))


def asked(output: str) -> Asked:
    prediction = Prediction("[SEG]", NOISE, NOISE.astype(np.float32), 1.0, 0.5, NO_CLEANUP)
    finding = Finding.of(prediction, with_probabilities=output == "probability")
    return Asked("tiny", ("vessels",), output, Answers((finding,), "0" * 64, 0.5, NO_CLEANUP, 1.0), 40, 50)


@pytest.mark.parametrize("output", ["rle", "polygons", "png", "probability"])
def test_every_form_ends_the_stage_encode(output):
    body, picture = Exchange("a"), Exchange("b")
    to_body(10**6, asked(output), body)
    png = to_picture(asked(output), picture).body
    assert "encode" in body.timing_ms
    assert "encode" in picture.timing_ms
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))) > 0, NOISE[0])


def test_points_are_counted_before_they_are_made():
    for share in (0.02, 0.5, 0.9):
        mask = np.random.default_rng(1).random((30, 41)) < share
        rings = [ring for polygon in to_polygons(mask)["coordinates"] for ring in polygon]
        assert num_points(mask) == sum(len(ring) - 1 for ring in rings)


def test_outlines_of_noise_are_refused_by_their_number():
    most = num_points(NOISE[0])
    to_body(most, asked("polygons"), Exchange("a"))
    to_regions(LABELS, most, asked("rle"), Exchange("a"))
    with pytest.raises(Problem, match=f"{most:,} points"):
        to_body(most - 1, asked("polygons"), Exchange("a"))
    with pytest.raises(Problem, match=f"{most:,} points"):
        to_regions(LABELS, most - 1, asked("rle"), Exchange("a"))
    to_body(0, asked("rle"), Exchange("a"))


class Handle:
    """A deployment that answers with errors, one after the other, and notes by which way it was asked."""

    def __init__(self, *errors: Exception):
        self._errors, self.by_reference = list(errors), []
        self.answer, self._way = self, False

    def options(self, _by_reference: bool) -> "Handle":
        self._way = _by_reference
        return self

    async def remote(self, question: Question) -> Answers:
        self.by_reference.append(self._way)
        if self._errors:
            raise self._errors.pop(0)
        return asked("rle").answers


def ask(handle: Handle, side: int = 8) -> Asked:
    args = ServeArgs(models={"tiny": {"uri": "/m"}})
    info = ModelInfo(
        name="tiny", sha256="0" * 64, threshold=0.5, cleanup=NO_CLEANUP, default_prompt="a", limits=args.limits
    )
    return asyncio.run(
        Models({"tiny": handle}, {"tiny": info}, args).ask(np.zeros((side, side), np.uint8), SegmentOptions())
    )


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="sa2va: secret")


@pytest.mark.parametrize(
    "error",
    [
        rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED),
        rpc_error(grpc.StatusCode.INTERNAL),
        RuntimeError("Unexpected error (StatusCode.UNKNOWN)"),  # as Serve says it of a connection
        ActorDiedError(),
        ReplicaUnavailableError("a"),
        RequestCancelledError("a"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_ray_raises_is_asked_again_and_then_a_problem(error):
    assert ask(Handle(error)).answers.findings
    with pytest.raises(Problem) as lost:
        ask(Handle(error, error, error))
    assert (lost.value.status, lost.value.title, lost.value.retry_after_s) == (503, "Not ready", 1)
    assert "secret" not in lost.value.detail


def test_a_message_too_large_for_grpc_goes_by_reference():
    handle = Handle(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED))
    ask(handle)
    assert handle.by_reference == [False, True]
    large = Handle()
    ask(large, side=1100)
    assert large.by_reference == [True]


def test_a_full_queue_and_a_fault_of_the_replica_are_not_asked_again():
    with pytest.raises(Problem, match="queue is full"):
        ask(Handle(BackPressureError(1, 1)))
    with pytest.raises(ZeroDivisionError):
        ask(Handle(RayTaskError("answer", "traceback", ZeroDivisionError())))
