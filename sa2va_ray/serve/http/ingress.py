"""The HTTP side as a deployment: it checks, decodes and encodes, and asks the model deployments. It holds no model."""

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from sa2va_ray import __version__
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.http.endpoint import Endpoint
from sa2va_ray.serve.http.middleware import add_middleware
from sa2va_ray.serve.http.openapi import EVERY_ROUTE
from sa2va_ray.serve.http.protocol import ModelInfo
from sa2va_ray.serve.http.routes import health, label_studio, models, open_inference, page, segment
from sa2va_ray.serve.process_setup import check_message_length, give_memory_back, prepare_process


def build_api(endpoint: Endpoint) -> FastAPI:
    """The application with all routes, which find the endpoint in its state."""
    api = FastAPI(
        title="sa2va_ray",
        version=__version__,
        description="Vessel masks from images. Not a medical device.",
        docs_url=None,  # its pages load scripts from other hosts
        redoc_url=None,
        responses=EVERY_ROUTE,
        redirect_slashes=False,  # a redirect would name the host that the caller named
    )
    api.state.endpoint = endpoint
    for group in (page, segment, models, health, open_inference, label_studio):
        api.include_router(group.router)
    add_middleware(api)
    return api


@serve.deployment
@serve.ingress()
class Ingress:
    """One copy of the HTTP side."""

    def __init__(self, models: dict[str, DeploymentHandle], infos: dict[str, ModelInfo], args: ServeArgs):
        check_message_length()
        prepare_process()
        give_memory_back()
        self._endpoint = Endpoint.open(models, infos, args)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve calls it in the replica, after the constructor."""
        return build_api(self._endpoint)

    async def check_health(self) -> None:
        """Serve calls it before the first request, and every 10 s from then on (`health_check_period_s`)."""
        await self._endpoint.served.look_again()
