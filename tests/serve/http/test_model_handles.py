"""From what goes wrong between the ingress and a replica to a second try or a problem."""

import asyncio

import grpc
import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError, RequestCancelledError

from sa2va_ray.predict.cleanup import NO_CLEANUP
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.http.model_handles import ModelHandles, SegmentedImage
from sa2va_ray.serve.http.protocol import ModelInfo, SegmentOptions
from sa2va_ray.serve.messages import Calibration, ModelReply, Question
from sa2va_ray.serve.problems import Problem

REPLY = ModelReply((), Calibration("0" * 64, 0.5, NO_CLEANUP), 1.0)


class Handle:
    """A deployment that answers with errors, one after the other, and notes by which way it was asked."""

    def __init__(self, *errors: Exception):
        self._errors, self.by_reference = list(errors), []
        self.answer, self._way = self, False

    def options(self, _by_reference: bool) -> "Handle":
        self._way = _by_reference
        return self

    async def remote(self, question: Question) -> ModelReply:
        self.by_reference.append(self._way)
        if self._errors:
            raise self._errors.pop(0)
        return REPLY


def ask(handle: Handle, side: int = 8) -> SegmentedImage:
    args = ServeArgs(models={"tiny": {"uri": "/m"}})
    info = ModelInfo(
        name="tiny", sha256="0" * 64, threshold=0.5, cleanup=NO_CLEANUP, default_prompt="a", limits=args.limits
    )
    return asyncio.run(
        ModelHandles({"tiny": handle}, args).segment(info, np.zeros((side, side), np.uint8), SegmentOptions())
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
    assert ask(Handle(error)).reply is REPLY
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


def test_small_messages_go_over_grpc_whatever_serve_does_by_default():
    small = Handle()
    small._way = True
    ask(small)
    assert small.by_reference == [False]


def test_a_full_queue_and_a_fault_of_the_replica_are_not_asked_again():
    with pytest.raises(Problem, match="queue is full"):
        ask(Handle(BackPressureError(1, 1)))
    with pytest.raises(ZeroDivisionError):
        ask(Handle(RayTaskError("answer", "traceback", ZeroDivisionError())))
