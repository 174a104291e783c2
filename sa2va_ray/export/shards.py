"""Weight files of an exported folder: written shard by shard, read back tensor by tensor."""

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sa2va_ray.models.loading.key_layouts import upstream_placement
from sa2va_ray.models.loading.weight_files import StoredTensor, open_folder, reading

INDEX = "model.safetensors.index.json"
_GIB = 2**30
_READ_AT_ONCE_BYTES = 256 * 2**20  # a mapped file's pages count as memory until it is closed
_HASHED_AT_ONCE = 8  # tensors, each by one core: 16 GB take a quarter of a minute on one


def write_weights(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    value: Callable[[str], Tensor],
    layout: str,
    max_shard_gib: float,
) -> None:
    """Writes `model.safetensors`, or shards with an index. No more than one shard is held.

    Args:
        shapes: of our tensors, in the order in which they are written.
        value: gives a tensor by our name, in bfloat16; it is asked once for each.
        layout: "own" or "upstream", whose names are written.
    """
    keys: dict[str, list[str]] = {}
    for name in shapes:
        keys.setdefault(upstream_placement(name).name if layout == "upstream" else name, []).append(name)
    sizes = {key: sum(2 * math.prod(shapes[name]) for name in names) for key, names in keys.items()}
    write_shards(
        folder,
        sizes,
        lambda shard: ({key: _join([value(name) for name in keys[key]]) for key in shard}, {}),
        max_shard_gib,
    )


def write_shards(
    folder: Path,
    sizes: Mapping[str, int],
    make: Callable[[list[str]], tuple[dict[str, Tensor], dict[str, str]]],
    max_shard_gib: float,
) -> None:
    """Writes `model.safetensors`, or shards with an index. No more than one shard is held.

    Args:
        sizes: bytes by name, in the order in which they are written.
        make: gives the tensors of some names as they are stored, and what the file's header says of them; it is asked
            once for each.
    """
    shards = _pack(sizes, int(max_shard_gib * _GIB))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors, metadata = make(shard)
        save_file(tensors, folder / file, {"format": "pt", **metadata})
        (folder / file).chmod(0o644)  # safetensors makes its files unreadable to others
        weight_map |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The folder's tensors by our name, none of them read yet, whichever layout it has."""
    return open_folder(folder, "exported", str(folder)).tensors


def read_tensors(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """One tensor after the other."""
    by_file: dict[Path, list[str]] = {}
    for name, place in stored.items():
        by_file.setdefault(place.path, []).append(name)
    for path, names in by_file.items():
        while names:
            with reading(path) as read:
                num_bytes = 0
                while names and num_bytes < _READ_AT_ONCE_BYTES:
                    tensor = read(stored[names[0]])
                    num_bytes += tensor.nbytes
                    yield names.pop(0), tensor


def tensor_sha256(tensor: Tensor) -> str:
    """Hash of a tensor's bytes, whatever its shape (64 hex characters)."""
    return hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()


def tensor_hashes(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """`tensor_sha256` by name, of several at a time. No more tensors than these are held."""
    hashes: dict[str, str] = {}
    under_way = deque[tuple[str, Future[str]]]()
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        for name, tensor in tensors:
            under_way.append((name, pool.submit(tensor_sha256, tensor)))
            if len(under_way) == _HASHED_AT_ONCE:
                name, future = under_way.popleft()
                hashes[name] = future.result()
    return hashes | {name: future.result() for name, future in under_way}


def combined_sha256(hashes: Mapping[str, str]) -> str:
    """One SHA-256 for all tensors' names and hashes, the same however they lie in files (64 hex characters)."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def stored_sha256(folder: Path) -> str:
    """`combined_sha256` of all tensors in a folder as they are stored."""
    return combined_sha256(tensor_hashes(read_tensors(stored_tensors(folder))))


def _pack(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = []
    room = 0
    for key, size in sizes.items():
        if size > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(key)
        room -= size
    return shards


def _join(tensors: list[Tensor]) -> Tensor:
    return tensors[0].contiguous() if len(tensors) == 1 else torch.cat(tensors)
