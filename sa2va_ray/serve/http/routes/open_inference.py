"""Open Inference Protocol v2: health and metadata. (Images and masks go over /v1/segment: a tensor of the protocol
would be ten times a PNG's size.)"""

from typing import Any

from sa2va_ray.serve.http.protocol import ModelInfo


def server_metadata(version: str) -> dict[str, Any]:
    return {"name": "sa2va_ray", "version": version, "extensions": []}


def model_metadata(info: ModelInfo) -> dict[str, Any]:
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
