"""Health of this process and of the models: `/livez` and `/readyz`."""

from fastapi import APIRouter

from sa2va_ray.serve.http import openapi
from sa2va_ray.serve.http.endpoint import CurrentEndpoint

router = APIRouter()


@router.get("/livez")
async def live() -> dict[str, str]:
    """This process answers."""
    return {"status": "live"}


@router.get("/readyz", **openapi.READY)
async def ready(endpoint: CurrentEndpoint) -> dict[str, str]:
    """A replica of each model runs, busy or not; a model that may be scaled to nothing needs none."""
    await endpoint.models.check_ready()
    return {"status": "ready"}
