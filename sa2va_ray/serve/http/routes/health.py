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
async def ready(endpoint: CurrentEndpoint) -> dict[str, str | list[str]]:
    """A replica of each model runs, busy or not; a model that may be scaled to nothing needs none. `notices` tells of
    models that lie at their URIs and are not served yet."""
    await endpoint.models.check_ready()
    notices = endpoint.served.notices()
    return {"status": "ready"} | ({"notices": notices} if notices else {})
