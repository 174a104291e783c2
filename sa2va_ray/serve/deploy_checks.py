"""What a Serve file names, looked at before Serve is asked, which takes most of a minute to say what is wrong.

This machine need not be of the cluster. What lies in a store both see; of a path only that is sure which is missing on
the cluster's own head.
"""

import hashlib

import ray
from ray.util.state import list_nodes

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.predict.facts import read_model_facts
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.guard.access import Access
from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import LOGGER


def is_head_here(dashboard: str) -> bool:
    """Whether the head of the cluster, on which Serve builds applications, is this machine."""
    heads = [node.node_ip for node in list_nodes(address=dashboard) if node.is_head_node and node.state == "ALIVE"]
    return heads == [ray.util.get_node_ip_address()]


def check_keys(path: str | None, is_here: bool) -> None:
    """Reads the file of API keys as the endpoint will.

    Args:
        is_here: whether this machine is the cluster's head.

    Raises:
        UserError: it holds no keys, or is not there, as far as this machine can tell.
    """
    if path is None:
        return
    try:
        if storage.is_local(path) and not storage.exists(path) and not is_here:
            LOGGER.warning("api_keys_file %s is not on this machine; is it at this path on the cluster's?", path)
        else:
            Access.load(path)
    except StorageError as error:
        LOGGER.warning("this machine cannot look at api_keys_file, the cluster has to: %s", error)
    except UserError as error:
        raise UserError(f"Nothing was deployed. {error}") from None


def models_hash(args: ServeArgs, is_here: bool) -> str | None:
    """12 hex characters that are others where a model's weights are; None where this machine cannot read one.

    Args:
        is_here: whether this machine is the cluster's head.

    Raises:
        UserError: a model is not there, or is no exported model, as far as this machine can tell.
    """
    found = []
    for name, model in args.models.items():
        try:
            found.append(f"{name} {read_model_facts(model.uri).sha256}")
        except StorageError as error:
            LOGGER.warning("this machine cannot look at the model %s, the cluster has to: %s", name, error)
            return None
        except UserError as error:
            if is_here or not storage.is_local(model.uri):
                raise UserError(f"Nothing was deployed. models.{name}.uri: {error}") from None
            LOGGER.warning("on this machine, models.%s.uri: %s Is it right on the cluster's?", name, error)
            return None
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]
