"""Label Studio's ML backend: bodies of its requests and replies, and its run lengths of brush masks.

The bodies are those of label-studio-ml-backend, `label_studio_ml/api.py`; the run lengths those that
label-studio-converter reads and writes in `brush.py`, a format of https://github.com/thi-ng/umbrella (rle-pack).
"""

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import numpy as np

from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.serve.http.protocol import MAX_PROMPT_CHARACTERS
from sa2va_ray.serve.messages import Answers
from sa2va_ray.serve.problems import Problem

_HEADER_BITS = 32 + 5 + 4 * 4  # number of values, bits of a value, bits of the four kinds of run length
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_CHANNELS = 4  # RGBA


@dataclass(frozen=True)
class LabelConfig:
    """What a project's labelling interface says of brush masks.

    Attributes:
        from_name, to_name: of its BrushLabels tag and of the Image tag that it marks.
        data_key: of a task's data, where its image is.
        labels: values of the labels, in order.
    """

    from_name: str
    to_name: str
    data_key: str
    labels: tuple[str, ...]


def health_reply() -> dict[str, Any]:
    return {"status": "UP", "model_class": "Sa2VA"}


def model_version(name: str, sha256: str) -> str:
    """Name and the beginning of the hash, as Label Studio shows it beside a prediction."""
    return f"{name}@{sha256[:12]}"


def setup_reply(version: str) -> dict[str, Any]:
    return {"model_version": version}


def read_label_config(text: str) -> LabelConfig:
    """The first BrushLabels tag of a labelling interface.

    Raises:
        Problem: not XML, with a DTD, without BrushLabels for an Image, or with a label too long to ask for.
    """
    root = _parse_xml(text)
    brush = next((tag for tag in root.iter("BrushLabels") if tag.get("name") and tag.get("toName")), None)
    if brush is None:
        raise _wrong_config("It has no BrushLabels tag with name and toName.")
    image = next((tag for tag in root.iter("Image") if tag.get("name") == brush.get("toName")), None)
    key = "" if image is None else image.get("value", "")
    if not key.startswith("$") or len(key) == 1:
        raise _wrong_config("BrushLabels belongs to no Image tag with a value such as $image.")
    labels = tuple(label.get("value", "") for label in brush.iter("Label"))
    if not labels or not all(labels):
        raise _wrong_config("BrushLabels has no Label tag, or one without a value.")
    longest = max(map(len, map(evaluation_prompt, labels)))
    if longest > MAX_PROMPT_CHARACTERS:
        raise _wrong_config(
            f"The question for a label has {longest:,} characters, the limit is {MAX_PROMPT_CHARACTERS:,}."
        )
    return LabelConfig(brush.attrib["name"], brush.attrib["toName"], key[1:], labels)


def read_tasks(body: Any, max_tasks: int) -> tuple[LabelConfig, list[tuple[int, str]]]:
    """The labelling interface in a body of `/predict`, and of each task its id and its image: a URI or a data URI.

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
    return config, [_read_task(task, position, config.data_key) for position, task in enumerate(body["tasks"])]


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
        return base64.b64decode(raw, validate=True) if head.lower().endswith(";base64") else raw
    except ValueError:
        raise Problem(422, "Not base64", "The image's data URI is not base64.", "Encode the file's bytes.") from None


def task_prediction(config: LabelConfig, model_name: str, answers: Answers) -> dict[str, Any]:
    """What `/predict` gives for a task.

    Args:
        answers: a finding for each label. A mask is a region; one without pixels is left out. The score is their mean.
    """
    regions = [
        _region(config, label, finding.score, mask)
        for label, finding in zip(config.labels, answers.findings, strict=True)
        for mask in finding.masks()
        if mask.any()
    ]
    score = float(np.mean([finding.score for finding in answers.findings]))
    return {"result": regions, "score": score, "model_version": model_version(model_name, answers.sha256)}


def predict_reply(
    predictions: Sequence[dict[str, Any] | Problem], version: str, request_id: str | None = None
) -> dict[str, Any]:
    """Body of the reply of `/predict`: a result for each task, in their order, as Label Studio wants it. For a task
    that failed alone it has no region, a `model_version` that says so, which annotators see, and the problem document.

    Raises:
        Problem: no task went well, or one would if it were asked again later.
    """
    problems = [each for each in predictions if isinstance(each, Problem)]
    temporary = [problem for problem in problems if problem.retry_after_s is not None]
    if temporary or (problems and len(problems) == len(predictions)):
        raise (temporary or problems)[0]
    return {"results": [_result(each, version, request_id) for each in predictions]}


def mask_to_brush_rle(mask: np.ndarray) -> list[int]:
    """(H, W) bool -> Label Studio's RLE, a list of bytes: the mask as RGBA, 255 or 0 in each of the four channels.

    Bits, most significant first: number of values (32); bits of a value less 1 (5); bits of the lengths of the kinds
    of runs, each less 1 (4 each); then runs: 1, the kind (2), the length less 1 (as many as the kind has), the value.
    """
    values, lengths = _runs(mask)
    kinds = np.searchsorted([2**bits for bits in _LENGTH_BITS[:-1]], lengths)
    num_bits = np.array(_LENGTH_BITS)[kinds]
    words = (((1 << 2 | kinds) << num_bits | (lengths - 1)) << _VALUE_BITS) | values
    header = mask.size * _CHANNELS
    for value, bits in ((_VALUE_BITS, 5), *((length, 4) for length in _LENGTH_BITS)):
        header = header << bits | (value - 1)
    words = np.concatenate([[header], words])
    return np.packbits(_to_bits(words, np.concatenate([[_HEADER_BITS], 1 + 2 + num_bits + _VALUE_BITS]))).tolist()


def brush_rle_to_mask(rle: Sequence[int], height: int, width: int) -> np.ndarray:
    """Label Studio's RLE -> (H, W) bool, set where alpha is not 0.

    Raises:
        ValueError: it is cut off, or of an image of another size.
    """
    bits = _BitReader(np.unpackbits(np.asarray(rle, np.uint8)))
    num_values = bits.read(32)
    if num_values != height * width * _CHANNELS:
        raise ValueError(f"The RLE has {num_values} values, not those of {height} x {width} RGBA pixels.")
    value_bits = bits.read(5) + 1
    length_bits = [bits.read(4) + 1 for _ in range(4)]
    values, done = np.zeros(num_values, bool), 0
    while done < num_values:
        is_run = bits.read(1)
        end = done + 1 + bits.read(length_bits[bits.read(2)])
        if end > num_values:
            raise ValueError(f"The RLE has runs of more than {num_values} values in all.")
        values[done:end] = bits.read(value_bits) if is_run else bits.read_many(end - done, value_bits)
        done = end
    return values.reshape(height, width, _CHANNELS)[..., -1]


class _BitReader:
    def __init__(self, bits: np.ndarray):
        self._bits, self._at = bits, 0

    def read(self, num_bits: int) -> int:
        return int("".join(map(str, self._take(num_bits).tolist())), 2)

    def read_many(self, count: int, num_bits: int) -> np.ndarray:
        """(count,) bool: which of the next numbers are not 0."""
        return np.any(self._take(count * num_bits).reshape(count, num_bits), axis=1)

    def _take(self, num_bits: int) -> np.ndarray:
        taken = self._bits[self._at : self._at + num_bits]
        if len(taken) < num_bits:
            raise ValueError(f"The RLE of {len(self._bits) // 8} bytes is cut off.")
        self._at += num_bits
        return taken


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R,) values and (R,) lengths of the runs of the mask as RGBA, none longer than a run may be."""
    pixels = mask.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    lengths = np.diff(starts, append=len(pixels)) * _CHANNELS
    values = pixels[starts].astype(np.int64) * 255
    longest = 2 ** _LENGTH_BITS[-1]
    pieces = -(-lengths // longest)
    split = np.full(pieces.sum(), longest, np.int64)
    split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * longest
    return np.repeat(values, pieces), split


def _to_bits(words: np.ndarray, num_bits: np.ndarray) -> np.ndarray:
    """The lowest bits of each word, as many as `num_bits` says, one after the other."""
    ends = np.cumsum(num_bits)
    shifts = np.repeat(ends, num_bits) - np.arange(ends[-1]) - 1
    return (np.repeat(words, num_bits) >> shifts & 1).astype(np.uint8)


def _result(prediction: dict[str, Any] | Problem, version: str, request_id: str | None) -> dict[str, Any]:
    if not isinstance(prediction, Problem):
        return prediction
    failed = {"model_version": f"{version} failed: {prediction.title}", "problem": prediction.document(request_id)}
    return {"result": [], "score": 0.0, **failed}


def _region(config: LabelConfig, label: str, score: float, mask: np.ndarray) -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex[:10],
        "from_name": config.from_name,
        "to_name": config.to_name,
        "type": "brushlabels",
        "original_height": mask.shape[0],
        "original_width": mask.shape[1],
        "image_rotation": 0,
        "score": score,
        "value": {"format": "rle", "rle": mask_to_brush_rle(mask), "brushlabels": [label]},
    }


def _read_task(task: Any, position: int, data_key: str) -> tuple[int, str]:
    if not isinstance(task, dict) or type(task.get("id")) is not int:
        raise _wrong_body(f"Task {position}, counted from 0, has no whole number 'id'.")
    data = task.get("data")
    if not isinstance(data, dict) or not isinstance(data.get(data_key), str):
        raise _wrong_body(f"Task {position}, counted from 0, has no image in the field of its data that is labelled.")
    return task["id"], data[data_key]


def _parse_xml(text: str) -> ElementTree.Element:
    # Entities, which can make a few bytes into gigabytes or read files, come from a DTD only.
    if "<!DOCTYPE" in text:
        raise _wrong_config("It has a DTD, which none needs.")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        raise _wrong_config("It is not XML.") from None


def _wrong_config(detail: str) -> Problem:
    return Problem(
        422,
        "Wrong label_config",
        f"The labelling interface cannot be used: {detail}",
        'It wants <Image name="image" value="$image"/> and <BrushLabels name="tag" toName="image"> with a <Label/>.',
    )


def _wrong_body(detail: str) -> Problem:
    return Problem(422, "Wrong body", detail, "Send what Label Studio sends: {tasks: [{id, data}], label_config}.")
