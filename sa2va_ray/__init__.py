"""sa2va_ray: prepare data, train, export, evaluate and serve Sa2VA for vessel segmentation, on Ray.

What programs use of it stands here; each name brings its own part, and its libraries, when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sa2va_ray.noise import quieten_libraries

if TYPE_CHECKING:
    from sa2va_ray.client import Client
    from sa2va_ray.predict.load import load_predictor
    from sa2va_ray.predict.predictor import Prediction, Query, Sa2VAPredictor

quieten_libraries()

__version__ = "0.1.0"
__all__ = ["Client", "Prediction", "Query", "Sa2VAPredictor", "load_predictor"]

_HOMES = {
    "Client": "client",
    "load_predictor": "predict.load",
    "Prediction": "predict.predictor",
    "Query": "predict.predictor",
    "Sa2VAPredictor": "predict.predictor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
