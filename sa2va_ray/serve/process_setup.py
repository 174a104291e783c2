"""Settings of the endpoint's processes: logging, threads, memory, and the size of messages."""

import ctypes
import logging
import sys

from ray.serve._private.constants import (
    RAY_SERVE_PROXY_USE_GRPC,
    RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH,
    SERVE_LOGGER_NAME,
)

from sa2va_ray.config import UserError
from sa2va_ray.interpreter import switch_threads_soon
from sa2va_ray.telemetry import configure_logging

_GRPC_DEFAULT_BYTES = 4 * 2**20
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_MMAP_THRESHOLD_BYTES = 2**20


def prepare_process() -> None:
    """Logging, and an event loop that gets its turn soon beside threads that decode, encode or predict in Python: it
    takes ten for a request."""
    configure_logging()
    logging.getLogger(SERVE_LOGGER_NAME).addFilter(_is_no_access_line)
    switch_threads_soon()


def _is_no_access_line(record: logging.LogRecord) -> bool:
    """The proxy writes a line for each request. Two more, from the ingress and the replica, tell nothing else."""
    return not getattr(record, "serve_access_log", False)


def give_memory_back() -> None:
    """Has glibc return the memory of an image when it is freed. By itself it raises this threshold as blocks come and
    go, up to 32 MiB, and keeps what lies below."""
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


def check_message_length() -> None:
    """
    Raises:
        UserError: replies go to the proxy over gRPC, which would cut off the large ones.
    """
    if RAY_SERVE_PROXY_USE_GRPC and RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH <= _GRPC_DEFAULT_BYTES:
        raise UserError(
            f"Serve uses gRPC here, and cuts off replies of more than {RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH} "
            "bytes. Start Ray on every node with RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=2147483647, or without "
            "RAY_SERVE_USE_GRPC_BY_DEFAULT."
        )
