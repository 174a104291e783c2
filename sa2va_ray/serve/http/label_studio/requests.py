"""Bodies of Label Studio's requests: the labelling interface, and the tasks with their images.

They are those of label-studio-ml-backend, `label_studio_ml/api.py`.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.label_studio import interface
from sa2va_ray.label_studio.interface import LabelConfig
from sa2va_ray.serve.http.protocol import MAX_PROMPT_CHARACTERS
from sa2va_ray.serve.http.read.strict_base64 import decode_strict_base64
from sa2va_ray.serve.problems import Problem


def read_label_config(text: str) -> LabelConfig:
    """The first BrushLabels tag of a labelling interface.

    Raises:
        Problem: not XML, with a DTD, without BrushLabels for an Image, or with a label too long to ask for.
    """
    try:
        config = interface.read_label_config(text)
    except ValueError as error:
        raise _wrong_config(str(error)) from None
    longest = max(map(len, map(evaluation_prompt, config.labels)))
    if longest > MAX_PROMPT_CHARACTERS:
        raise _wrong_config(
            f"The question for a label has {longest:,} characters, the limit is {MAX_PROMPT_CHARACTERS:,}."
        )
    return config


@dataclass(frozen=True)
class TaskImage:
    """What a task calls its image: a URI, a data URI, or a path of Label Studio."""

    task: int
    uri: str = field(repr=False)


def read_tasks(body: Any, max_tasks: int) -> tuple[LabelConfig, list[TaskImage]]:
    """The labelling interface in a body of `/predict`, and the image of each task.

    Raises:
        Problem: the body is not as Label Studio sends it.
    """
    if not isinstance(body, dict) or not isinstance(body.get("tasks"), list):
        raise _wrong_body("It has no list 'tasks'.")
    if not isinstance(body.get("label_config"), str):
        raise _wrong_body("It has no text 'label_config'.")
    if len(body["tasks"]) > max_tasks:
        raise Problem(
            413,
            "Too many tasks",
            f"The request has {len(body['tasks'])} tasks, the limit is {max_tasks}.",
            "Send them in several requests: Label Studio's batch size is a setting of its own.",
        )
    config = read_label_config(body["label_config"])
    return config, [_image_of_task(task, position, config.data_key) for position, task in enumerate(body["tasks"])]


def read_data_uri(uri: str) -> bytes:
    """The bytes in a `data:` URI.

    Raises:
        Problem: it is not one.
    """
    head, comma, data = uri.partition(",")
    if not head.lower().startswith("data:") or not comma:
        raise Problem(422, "Not a data URI", "The image's data URI has no 'data:' or no comma.", "Send it again.")
    try:
        raw = unquote_to_bytes(data)
        return decode_strict_base64(raw) if head.lower().endswith(";base64") else raw
    except ValueError:
        raise Problem(422, "Not base64", "The image's data URI is not base64.", "Encode the file's bytes.") from None


def _image_of_task(task: Any, position: int, key: str) -> TaskImage:
    if not isinstance(task, dict) or type(task.get("id")) is not int:
        raise _wrong_body(f"Task {position}, counted from 0, has no whole number 'id'.")
    data = task.get("data")
    if not isinstance(data, dict) or not isinstance(data.get(key), str):
        raise _wrong_body(f"Task {position}, counted from 0, has no image in the field of its data that is labelled.")
    return TaskImage(task["id"], data[key])


def _wrong_config(detail: str) -> Problem:
    return Problem(
        422,
        "Wrong label_config",
        f"The labelling interface cannot be used: {detail}",
        interface.CURE,
    )


def _wrong_body(detail: str) -> Problem:
    return Problem(422, "Wrong body", detail, "Send what Label Studio sends: {tasks: [{id, data}], label_config}.")
