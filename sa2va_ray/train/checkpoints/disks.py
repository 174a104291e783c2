"""Local disks of the ranks: which ranks share one, and whether it has room for what all of them write."""

import shutil
import socket
from pathlib import Path

import torch.distributed as dist

from sa2va_ray.train.collectives import gather_objects
from sa2va_ray.train.errors import RunStoppedError


def ranks_on_disk(folder: Path) -> list[int]:
    """The ranks, in order, for which `folder` is the same as for this one: on the same machine and device. Every rank
    calls it."""
    places = gather_objects(_place(folder))
    return [rank for rank, place in enumerate(places) if place == places[dist.get_rank()]]


def check_room(folder: Path, num_bytes: int, what: str) -> None:
    """Checks that each rank's disk has room, before any of them writes. Every rank calls it.

    Args:
        num_bytes: what this rank is to write into `folder`.
        what: the name of what is written, in the message.

    Raises:
        RunStoppedError: a disk, of any rank, has less room than all ranks on it want.
    """
    wanted: dict[tuple, int] = {}
    free: dict[tuple, int] = {}
    for place, rank_free, rank_bytes in gather_objects((_place(folder), shutil.disk_usage(folder).free, num_bytes)):
        wanted[place] = wanted.get(place, 0) + rank_bytes
        free[place] = min(rank_free, free.get(place, rank_free))
    for place, place_bytes in wanted.items():
        if free[place] < place_bytes:
            host, _, path = place
            raise RunStoppedError(
                f"{what} of {place_bytes / 2**20:.1f} MiB could not be written to the local disk: "
                f"{free[place] / 2**20:.1f} MiB are free in {path} of {host}. Free some in this folder for temporary "
                "files, or set TMPDIR to a larger disk."
            )


def _place(folder: Path) -> tuple[str, int, str]:
    return socket.gethostname(), folder.stat().st_dev, str(folder)
