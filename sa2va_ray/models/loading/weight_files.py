"""Files of weights, opened without being read: names, shapes and dtypes first, tensors one at a time later.

Safetensors are read by shard through `safe_open`, pickles by `torch.load(weights_only=True, mmap=True)`, so opening
costs no memory and nothing in a file is ever run.
"""

import json
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sa2va_ray.config import UserError
from sa2va_ray.models.loading.key_layouts import Placement, adapter_target, placements
from sa2va_ray.models.loading.report import some

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DEEPSPEED_FILE = "mp_rank_00_model_states.pt"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "BOOL": torch.bool,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
}
_OTHER_DTYPE = torch.uint8  # that no weight may have
_WEIGHT_MAP = TypeAdapter(Annotated[dict[str, str], Field(min_length=1)])
_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER_BYTES = 1024
# Tables that old transformers versions saved although every model computes them.
_NOT_WEIGHTS = ("rotary_emb.inv_freq", "embeddings.position_ids")

Read = Callable[["StoredTensor"], Tensor]


@dataclass(frozen=True)
class StoredTensor:
    """One of our tensors as it lies in a file; `shape` is that of our tensor."""

    path: Path
    key: str
    placement: Placement
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class WeightSource:
    """The tensors that one source has.

    Attributes:
        role: what it is to the user, for reports: "base", "sam2_checkpoint", ...
        tensors: by our name.
        adapters: LoRA pairs A (r, in) and B (out, r) by our name of the weight that they adapt.
    """

    role: str
    location: str
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    adapters: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)

    def add(self, path: Path, key: str, shape: tuple[int, ...], dtype: torch.dtype, prefix: str = "") -> None:
        if key.endswith(_NOT_WEIGHTS):
            return
        adapted = adapter_target(key)
        if adapted:
            name, side = adapted
            self.adapters.setdefault(name, {})[side] = StoredTensor(path, key, Placement(name), shape, dtype)
            return
        for placement in placements(prefix + key):
            rows = (shape[0] // placement.parts, *shape[1:]) if placement.parts > 1 and shape else shape
            self.tensors[placement.name] = StoredTensor(path, key, placement, rows, dtype)


def open_folder(folder: Path, role: str, location: str) -> WeightSource:
    """The safetensors of a Hugging Face folder.

    Raises:
        UserError: no weights, or a shard that is missing or damaged.
    """
    index = _read_index(folder, location)
    names = sorted(set(index.values())) or [_WEIGHTS]
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise UserError(
            f"{location} lacks {len(absent)} of its {len(names)} weight files: {', '.join(absent[:3])}. "
            + _why_absent(folder)
        )
    source = WeightSource(role, location)
    for name in names:
        with _opened(folder / name) as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                if index.get(key, name) != name:
                    continue  # left over: the index says which file has it
                header = file.get_slice(key)
                dtype = _DTYPES.get(header.get_dtype(), _OTHER_DTYPE)
                source.add(folder / name, key, tuple(header.get_shape()), dtype)
    return source


def open_pickle(path: Path, role: str, location: str, prefix: str = "") -> WeightSource:
    """A `.pt` or `.pth` file, or a DeepSpeed folder of that name, with its tensors at the top or under "state_dict",
    "model" or "module".

    Args:
        prefix: put before every name.
    """
    source = WeightSource(role, location)
    path = path / _DEEPSPEED_FILE if path.is_dir() else path
    for key, tensor in _load_pickle(path, location).items():
        source.add(path, key, tuple(tensor.shape), tensor.dtype, prefix)
    return source


@contextmanager
def reading(path: Path) -> Iterator[Read]:
    """Opens a weight file; what is yielded reads one of its tensors, and only the part that was placed."""
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            yield lambda stored: file.get_slice(stored.key)[_rows(stored.placement, stored.shape)]
    else:
        tensors = _load_pickle(path, str(path))
        yield lambda stored: tensors[stored.key][_rows(stored.placement, stored.shape)]


def check_no_pointers(path: Path, location: str) -> None:
    """
    Raises:
        UserError: a file, or some directly in a folder, are what Git LFS leaves in place of the content.
    """
    files = [path] if path.is_file() else [each for each in sorted(path.iterdir()) if each.is_file()]
    pointers = [each.name for each in files if _is_pointer(each)]
    if pointers:
        raise UserError(
            f"{location} has {len(pointers)} Git LFS pointer(s) in place of the files: {some(pointers)}. Fetch the "
            "files with `git lfs install && git lfs pull` in the clone, or with `hf download`."
        )


def _is_pointer(path: Path) -> bool:
    if path.stat().st_size > _MAX_POINTER_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _read_index(folder: Path, location: str) -> dict[str, str]:
    """Names of the weight files that a folder says it has, by their tensors' keys; empty where it has one file."""
    if not (folder / _INDEX).is_file():
        return {}
    try:
        return _WEIGHT_MAP.validate_python(json.loads((folder / _INDEX).read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{_INDEX} of {location} is no index of weights: it may be cut off. Fetch it again.") from None


def _why_absent(folder: Path) -> str:
    files = [each.name for each in folder.iterdir()]
    if not (folder / _INDEX).is_file() and (shards := [name for name in files if _SHARD.fullmatch(name)]):
        return f"It has {len(shards)} shards and no {_INDEX}: fetch that, too."
    if any(name.endswith((".bin", ".pt", ".pth")) for name in files):
        return "Its weights are pickles, which a folder is not loaded from: save it with safetensors (save_pretrained)."
    return "The download is incomplete, or its weights are not safetensors."


def _rows(placement: Placement, shape: tuple[int, ...]) -> slice | EllipsisType:
    if placement.parts == 1:
        return ...
    return slice(placement.part * shape[0], (placement.part + 1) * shape[0])


@contextmanager
def _opened(path: Path) -> Iterator:
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise UserError(
            f"{path} is not a readable safetensors file: {error}. It has {size} bytes and may be cut off; fetch it "
            "again."
        ) from None
    with opened as file:
        yield file


def _load_pickle(path: Path, location: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"There is no weight file at {location} (looked for {path.name}).")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        raise UserError(
            f"{location} is not a whole weight file: {str(error).splitlines()[0]} It has {path.stat().st_size} bytes "
            "and may be cut off, or a web page in its place: fetch it again. One that torch wrote before 1.6 has to be "
            "written anew: torch.save(torch.load(path, weights_only=True), new_path)."
        ) from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{location} is not a file of plain tensors: {str(error).splitlines()[0]} Files that hold Python objects "
            "are not loaded, since loading runs them. Where you trust it, write its tensors alone with "
            "torch.save({'state_dict': torch.load(path, weights_only=False)['state_dict']}, new_path)."
        ) from None
    for key in ("state_dict", "module", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise UserError(f"{location} holds no tensors at its top, nor under state_dict, module or model.")
    return tensors
