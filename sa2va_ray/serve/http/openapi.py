"""What /openapi.json says of bodies that are read by hand, and of the replies that each route may give."""

from typing import Any

from sa2va_ray.serve.http.protocol import SegmentOptions

_TINY_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR4nGNoQAIMVOcAADR7IAH5FpwLAAAAAElFTkSuQmCC"
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "cure", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "cure": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
_MEANINGS = {
    400: "The body is cut off or cannot be parsed.",
    401: "No API key, or an unknown one.",
    403: "The caller is not on this machine, or the URI is not allowed.",
    404: "No such model or route.",
    405: "The route has other methods.",
    408: "The body came too slowly.",
    411: "No Content-Length.",
    413: "Too many bytes, pixels or images.",
    415: "Not an image, or a body of another type.",
    422: "A wrong field, or a broken image.",
    429: "Over the key's rate limit; see Retry-After.",
    500: "A fault of the server itself.",
    503: "Too busy, or not ready; see Retry-After.",
    504: "No answer within the time limit.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for problem documents."""
    return {
        status: {"description": _MEANINGS[status], "content": {"application/problem+json": {"schema": _PROBLEM}}}
        for status in statuses
    }


EVERY_ROUTE: dict[int | str, dict[str, Any]] = problem_responses(403, 500)
"""Problems that each route may answer with."""
_GUARDED = (401, 403, 429)
_UPLOAD = (400, *_GUARDED, 404, 408, 411, 413, 415, 422, 503, 504)
_OPTIONS = SegmentOptions.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]


def _body(image_fields: dict[str, Any], file_field: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    form_options = {**_OPTIONS, "cleanup": {"type": "string", "contentMediaType": "application/json"}}
    json_schema = {"type": "object", "properties": {**image_fields, **_OPTIONS}}
    form_schema = {"type": "object", "required": ["file"], "properties": {"file": file_field, **form_options}}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": json_schema | {"additionalProperties": False}, "example": example},
                "multipart/form-data": {"schema": form_schema | {"additionalProperties": False}},
            },
        }
    }


_IMAGE = {"type": "string", "format": "byte", "description": "Base64 of the encoded image."}
_FILE = {"type": "string", "format": "binary"}
SEGMENT: dict[str, Any] = {
    "openapi_extra": _body(
        {"image": _IMAGE, "uri": {"type": "string", "description": "Of an image that the endpoint may fetch."}},
        _FILE,
        {
            "image": _TINY_PNG,
            "prompt": "Please segment blood vessels in this image.",
            "threshold": 0.5,
            "output": "rle",
        },
    ),
    "responses": problem_responses(*_UPLOAD) | {200: {"content": {"image/png": {"schema": _FILE}}}},
}
SEGMENT_BATCH: dict[str, Any] = {
    "openapi_extra": _body(
        {"images": {"type": "array", "items": _IMAGE}},
        {"type": "array", "items": _FILE},
        {"images": [_TINY_PNG, _TINY_PNG]},
    ),
    "responses": problem_responses(*_UPLOAD)
    | {200: {"description": "One JSON object a line.", "content": {"application/x-ndjson": {}}}},
}
READ: dict[str, Any] = {"responses": problem_responses(*_GUARDED)}
READ_MODEL: dict[str, Any] = {"responses": problem_responses(*_GUARDED, 404)}
READY: dict[str, Any] = {"responses": problem_responses(503)}
MODEL_READY: dict[str, Any] = {"responses": problem_responses(*_GUARDED, 404, 503)}


def _label_studio(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema, "example": example}}
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
        "responses": problem_responses(*_UPLOAD),
    }


_LABEL_CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="Vessel"/></BrushLabels></View>"""
_TASK = {
    "type": "object",
    "required": ["id", "data"],
    "properties": {
        "id": {"type": "integer"},
        "data": {"type": "object", "description": "The image, as URI or data URI, in the field that is labelled."},
    },
}
LABEL_EVENT = _label_studio(
    {
        "type": "object",
        "required": ["action"],
        "properties": {"action": {"type": "string"}, "annotation": {"description": "An object with `id`, or several."}},
    },
    {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}},
)
LABEL_SETUP = _label_studio({"type": "object"}, {"project": "1.1700000000", "schema": _LABEL_CONFIG})
LABEL_TASKS = _label_studio(
    {
        "type": "object",
        "required": ["tasks", "label_config"],
        "properties": {
            "tasks": {"type": "array", "items": _TASK},
            "label_config": {"type": "string", "description": "The labelling interface, in XML."},
        },
    },
    {
        "tasks": [{"id": 1, "data": {"image": f"data:image/png;base64,{_TINY_PNG}"}}],
        "label_config": _LABEL_CONFIG,
    },
)
