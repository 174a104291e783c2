"""Allocates and fills the parameters of a model that was built on the meta device, as the plan of the load says."""

import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from sa2va_ray.config import UserError
from sa2va_ray.models.loading.plan import Planned
from sa2va_ray.models.loading.weight_files import Read, reading
from sa2va_ray.models.parts import SEG_HEAD
from sa2va_ray.models.sa2va.configuration_sa2va import Sa2VAConfig
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel

_MAPPED_BYTES = 256 * 2**20
_NOISE = 0.01  # of new rows, in standard deviations of the old ones


def build_empty_model(config: Sa2VAConfig) -> Sa2VAModel:
    """The model with its parameters on the meta device. What is no parameter is real: rotary tables, SAM 2's position
    tables and its random frequencies (which on a meta model would stay meta, or be lost)."""
    with init_empty_weights(include_buffers=False):
        return Sa2VAModel(config)


def fill_model(model: Sa2VAModel, plan: dict[str, Planned], device: str, dtype: torch.dtype, seed: int) -> None:
    """Allocates and fills each tensor once; files are read one after the other.

    Raises:
        UserError: a tensor with numbers that are not finite.
    """
    with ExitStack() as stack:
        adapters: dict[Path, Read] = {}
        for path in {planned.adapter[0].path for planned in plan.values() if planned.adapter}:
            adapters[path] = stack.enter_context(reading(path))
        for path, names in _batches(plan):
            with reading(path) as read:
                for name in names:
                    tensor = allocate(model, name, device, dtype)
                    _fill(tensor, name, plan[name], read, adapters, seed)
                    check_finite_weights(tensor, name, path)
    _initialise_head(model, [name for name, planned in plan.items() if not planned.stored], device, dtype, seed)
    nn.Module.to(model, device=torch.device(device))  # the tables; they keep their own dtype


def _batches(plan: dict[str, Planned]) -> Iterator[tuple[Path, list[str]]]:
    """Tensors to be read while a file is open once. Pages of a mapped file stay in memory until it is closed, so a
    large one is closed and opened again every `_MAPPED_BYTES`."""
    by_file: dict[Path, list[str]] = {}
    for name, planned in plan.items():
        if planned.stored:
            by_file.setdefault(planned.stored.path, []).append(name)
    for path, names in by_file.items():
        batch, num_bytes = [], 0
        for name in names:
            stored = plan[name].stored
            assert stored is not None
            batch.append(name)
            num_bytes += math.prod(stored.shape) * stored.dtype.itemsize
            if num_bytes >= _MAPPED_BYTES:
                yield path, batch
                batch, num_bytes = [], 0
        if batch:
            yield path, batch


def allocate(model: nn.Module, name: str, device: str, dtype: torch.dtype) -> Tensor:
    """Puts an empty tensor in the place of the parameter or buffer `name`, and returns it."""
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    tensor = torch.empty(getattr(owner, leaf).shape, device=device, dtype=dtype)
    is_parameter = isinstance(getattr(owner, leaf), nn.Parameter)
    setattr(owner, leaf, nn.Parameter(tensor) if is_parameter else tensor)
    return tensor


def _fill(target: Tensor, name: str, planned: Planned, read: Read, adapters: dict[Path, Read], seed: int) -> None:
    assert planned.stored is not None
    value = read(planned.stored)
    if planned.adapter:
        a, b, factor = planned.adapter
        read_adapter = adapters[a.path]
        value = value.float() + factor * (read_adapter(b).float() @ read_adapter(a).float())
    if planned.known_rows is None:
        target.copy_(value)
    else:
        known = value[: planned.known_rows]
        target[: planned.known_rows].copy_(known)
        target[planned.known_rows :].copy_(new_rows(known, len(target) - len(known), seed ^ zlib.crc32(name.encode())))


def check_finite_weights(tensor: Tensor, name: str, path: Path) -> None:
    """Raises `UserError` with the number of values, in a tensor of the file `path`, that are NaN or infinite.

    One NaN, or a number that is too large for the dtype, makes every answer rubbish.
    """
    if not all_finite(tensor):
        bad = int((~tensor.isfinite()).sum())
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            f"{name}, from {path.name}, has {bad} of {tensor.numel()} numbers that are not finite in {dtype}. Its "
            "training went wrong, or the file is damaged: fetch it again, or take an older checkpoint. Numbers too "
            "large for float16 are finite in bfloat16."
        )


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. The extremes tell it in 0.06 s for a GB, to look at each takes thirty times
    as long."""
    return not tensor.numel() or all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def new_rows(known: Tensor, count: int, seed: int) -> Tensor:
    """(K, D) -> (count, D) float32 rows for tokens that were added: the mean of the known rows, and a little seeded
    noise, by which they differ. Upstream draws them from N(mean, 1e-9 covariance) without a seed; this is that draw
    made repeatable, and large enough to survive bfloat16."""
    mean = known.mean(dim=0, dtype=torch.float32)
    squares = torch.zeros_like(mean)
    for rows in known.split(8192):
        squares += (rows.float() - mean).square().sum(dim=0)
    noise = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed))
    return mean + _NOISE * (squares / len(known)).sqrt() * noise


def _initialise_head(model: Sa2VAModel, names: list[str], device: str, dtype: torch.dtype, seed: int) -> None:
    """Gives fresh parts of the [SEG] head the values that `nn.Linear` starts with, drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {
            f"{SEG_HEAD.module}.{index}": nn.Linear(layer.in_features, layer.out_features)
            for index, layer in enumerate(model.get_submodule(SEG_HEAD.module).children())
            if isinstance(layer, nn.Linear)
        }
    for name in names:
        layer, _, leaf = name.rpartition(".")
        allocate(model, name, device, dtype).copy_(getattr(layers[layer], leaf).detach())
