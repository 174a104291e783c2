"""Open Inference Protocol v2: health and metadata. (Images and masks go over /v1/segment: a tensor of the protocol
would be ten times a PNG's size.)"""

from typing import Any

from fastapi import APIRouter, Request

from sa2va_ray import __version__
from sa2va_ray.serve.http import openapi
from sa2va_ray.serve.http.endpoint import CurrentEndpoint
from sa2va_ray.serve.http.protocol import ModelInfo

router = APIRouter()


@router.get("/v2")
async def server_metadata() -> dict[str, Any]:
    """Name and version of the server, by the Open Inference Protocol."""
    return {"name": "sa2va_ray", "version": __version__, "extensions": []}


@router.get("/v2/health/live")
async def server_live() -> dict[str, bool]:
    return {"live": True}


@router.get("/v2/health/ready", **openapi.READY)
async def server_ready(endpoint: CurrentEndpoint) -> dict[str, bool]:
    await endpoint.models.check_ready()
    return {"ready": True}


@router.get("/v2/models/{name}", **openapi.READ_MODEL)
async def model_metadata(name: str, request: Request, endpoint: CurrentEndpoint) -> dict[str, Any]:
    async with endpoint.recorder.record(request, "model"):
        return _metadata(endpoint.served.info(name))


@router.get("/v2/models/{name}/ready", **openapi.MODEL_READY)
async def model_ready(name: str, request: Request, endpoint: CurrentEndpoint) -> dict[str, Any]:
    async with endpoint.recorder.record(request, "model"):
        info = endpoint.served.info(name)
        await endpoint.models.check_ready()
        return {"name": info.name, "ready": True}


def _metadata(info: ModelInfo) -> dict[str, Any]:
    """Shapes: an encoded image and a prompt in; N masks of the image's height and width out."""
    return {
        "name": info.name,
        "versions": [info.sha256],
        "platform": "sa2va_ray",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [1]},
            {"name": "prompt", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "masks", "datatype": "BOOL", "shape": [-1, -1, -1]}],
    }
