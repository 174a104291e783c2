"""Which models are served: `/v1/models`."""

from fastapi import APIRouter, Request

from sa2va_ray.serve.http import openapi
from sa2va_ray.serve.http.endpoint import CurrentEndpoint
from sa2va_ray.serve.http.protocol import ModelInfo, ModelList

router = APIRouter()


@router.get("/v1/models", **openapi.READ)
async def models(request: Request, endpoint: CurrentEndpoint) -> ModelList:
    """Which models are served."""
    async with endpoint.recorder.record(request, "models"):
        return ModelList(models=endpoint.served.all_infos())


@router.get("/v1/models/{name}", **openapi.READ_MODEL)
async def model(name: str, request: Request, endpoint: CurrentEndpoint) -> ModelInfo:
    """Hash, threshold, clean-up and limits of a model."""
    async with endpoint.recorder.record(request, "model"):
        return endpoint.served.info(name)
