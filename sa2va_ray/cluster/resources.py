"""What a job asks of the cluster, held against what is up and what its autoscaler may start."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sa2va_ray import storage
from sa2va_ray.cluster.addresses import check_address
from sa2va_ray.cluster.config import ClusterConfig, PoolConfig
from sa2va_ray.cluster.core_lines import quieten_core
from sa2va_ray.cluster.worker_lines import quieten_job
from sa2va_ray.config import UserError
from sa2va_ray.telemetry import LOGGER

_AUTOSCALER = "--autoscaling-config="
_KUBERAY_START = "KUBERAY_GEN_RAY_START_CMD"
"""Variable of KubeRay's containers: the command that starts Ray in them."""
_HEAD = "node:__internal_head__"
_MAX_WORKERS = 2  # Ray's own, where a cluster's file does not say
_POOL_CURE = "Lower num_actors or cpus_per_actor, set use_gpu=false, or add nodes."


@dataclass(frozen=True)
class Capacity:
    """Resource -> amount.

    Attributes:
        present: of the nodes that are up.
        most: of these and of the nodes that the autoscaler may start.
        nodes: what each of them has, those that may be started by their kinds.
        num_nodes: of both together, at most.
        has_limit: whether there can be no more than that. False where KubeRay's autoscaler, which does not tell what it
            may start, starts nodes: all of these are of what is up then.
    """

    present: Mapping[str, float]
    most: Mapping[str, float]
    nodes: Sequence[Mapping[str, float]]
    num_nodes: int
    has_limit: bool = True


def connect() -> None:
    """Connects this process to the cluster that `RAY_ADDRESS` names, or that it is a job of; without one, a cluster is
    started on this machine. Nothing happens where it is connected already.

    Raises:
        UserError: `RAY_ADDRESS` is the dashboard's, no cluster answers there, or it refuses the token; or Ray has noted
            a cluster of this machine that is gone.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        check_address(address)
        with quieten_core():
            ray.init()
    except (ConnectionError, AuthenticationError) as error:
        raise UserError(
            f"What listens at RAY_ADDRESS={address or 'auto'} does not let this process in: {first_sentence(error)} "
            "The token of this shell is missing or another cluster's (`sa2va-ray env` says how it gets the right one), "
            "or it is not the address of a cluster of this version of Ray."
        ) from None
    quieten_job()


def first_sentence(error: Exception) -> str:
    """What went wrong, of Ray's errors, which say much besides."""
    return f"{str(error).splitlines()[0].partition('. ')[0].rstrip('.')}."


def read_capacity() -> Capacity:
    """What the cluster has that this process is connected to, and what it may start."""
    present, config = ray.cluster_resources(), _autoscaler_config(ray.get_runtime_context().gcs_address)
    alive = [node["Resources"] for node in _alive()]
    if config is None:
        return Capacity(present, present, alive, len(alive), has_limit=False)
    kinds = config.get("available_node_types", {})
    workers = [kind for name, kind in kinds.items() if name != config.get("head_node_type")]
    limit = config.get("max_workers", _MAX_WORKERS)
    num_started = min(limit, sum(kind.get("max_workers", limit) for kind in workers))
    most = dict(present)
    for name in {name for kind in workers for name in kind["resources"]}:
        startable = sorted(
            (
                amount
                for kind in workers
                for amount in [kind["resources"].get(name, 0.0)] * kind.get("max_workers", limit)
            ),
            reverse=True,
        )
        most[name] = max(present.get(name, 0.0), _head().get("Resources", {}).get(name, 0.0) + sum(startable[:limit]))
    nodes = alive + [kind["resources"] for kind in workers]
    return Capacity(present, most, nodes, max(len(alive), 1 + num_started))


def check_cluster(wanted: Mapping[str, float], cure: str, each: Mapping[str, float] | None = None) -> None:
    """Ray would wait for ever, with only a warning, for what the cluster does not have and cannot start. That the job
    waits for what is to be started is logged; on Kubernetes, where that may not be known to come, with how to see it.

    Args:
        wanted: resource -> amount, of all workers or actors and what feeds them together.
        cure: which keys to lower, a sentence.
        each: of that, what one of them wants of one node.

    Raises:
        UserError: a resource of which there can only be less, or no node that has enough for one of them.
    """
    capacity = read_capacity()
    one = _of_one_node(capacity, each or {})
    if capacity.has_limit:
        _refuse_what_never_comes(capacity, wanted, one, cure)
    waits = [
        f"{amount:g} {resource} (now {capacity.present.get(resource, 0.0):g})"
        for resource, amount in wanted.items()
        if capacity.present.get(resource, 0.0) < amount
    ]
    if one:
        waits.append(f"{one} of one node for each worker or actor (now on none)")
    if waits and capacity.has_limit:
        LOGGER.info("the job waits until the autoscaler has started nodes: it wants %s", ", ".join(waits))
    elif waits:
        LOGGER.warning(
            "the job waits for nodes: it wants %s. Kubernetes may start more, up to the RayCluster's `maxReplicas`, "
            "which are not known here: where they do not suffice, the job waits for ever. `kubectl get pods` shows "
            "what is started, `kubectl describe pod NAME` why one is pending. %s",
            ", ".join(waits),
            cure,
        )
    elif in_use := _in_use(wanted):
        LOGGER.warning(
            "the job waits until other jobs, or endpoints, give back what it wants: %s. `ray status` and `ray job "
            "list` show who has it.",
            ", ".join(in_use),
        )


def check_any_cpu() -> None:
    """For tasks of one CPU, as many at a time as there are CPUs. That they wait for a free one is logged.

    Raises:
        UserError: there is none, and there can be none.
    """
    check_cluster({"CPU": 1.0}, "Start a node that has CPUs for Ray.")


def _of_one_node(capacity: Capacity, each: Mapping[str, float]) -> str:
    """What a worker or actor wants of one node, where none of `capacity.nodes` has it; else ""."""
    if any(all(node.get(name, 0.0) >= amount for name, amount in each.items()) for node in capacity.nodes):
        return ""
    return " and ".join(f"{amount:g} {name}" for name, amount in each.items() if amount)


def _refuse_what_never_comes(capacity: Capacity, wanted: Mapping[str, float], one: str, cure: str) -> None:
    for resource, amount in wanted.items():
        present, most = capacity.present.get(resource, 0.0), capacity.most.get(resource, 0.0)
        if most < amount:
            startable = f" and may start up to {most:g}" if most > present else ""
            raise UserError(
                f"The job wants {amount:g} {resource} in all, the cluster has {present:g}{startable}. {cure}"
            )
    if one:
        raise UserError(f"Each worker or actor wants {one} of one node, and no node has or would have these. {cure}")


def _in_use(wanted: Mapping[str, float]) -> list[str]:
    """What of `wanted` the cluster has, and is not free now."""
    free = ray.available_resources()
    return [
        f"{amount:g} {resource} (free now: {free.get(resource, 0.0):g})"
        for resource, amount in wanted.items()
        if free.get(resource, 0.0) < amount
    ]


def pool_arguments(pool: PoolConfig) -> dict[str, Any]:
    """The arguments of Ray Data's `map_batches` for a class whose instances hold a model.

    Raises:
        UserError: the cluster has not, and cannot start, what the actors want.
    """
    use_gpu = decide_use_gpu(pool.use_gpu)
    num_gpus = int(ray.cluster_resources().get("GPU", 0)) if use_gpu else 0
    num_actors = pool.num_actors or max(num_gpus, 1)
    each = {"CPU": pool.cpus_per_actor, "GPU": float(use_gpu)}
    check_cluster({name: num_actors * amount for name, amount in each.items()}, _POOL_CURE, each)
    return {
        "compute": ray.data.ActorPoolStrategy(size=num_actors),
        "batch_size": pool.batch_size,
        "num_cpus": pool.cpus_per_actor,
        "num_gpus": int(use_gpu),
    }


def decide_use_gpu(use_gpu: bool | None) -> bool:
    """What `use_gpu` means in every job: a GPU for each worker or actor (true), none (false), or as the cluster has any
    or may start any (null); on Kubernetes, where it is not known what may be started, as one is up."""
    if use_gpu is not None:
        return use_gpu
    capacity = read_capacity()
    has_any = capacity.most.get("GPU", 0.0) >= 1
    if not has_any and not capacity.has_limit:
        LOGGER.warning(
            "the job uses CPUs only: use_gpu is not given, and no node with a GPU is up. Whether Kubernetes may start "
            "one is not known here: use_gpu=true asks for it and waits, use_gpu=false says that CPUs are meant."
        )
    return has_any


def check_paths(config: ClusterConfig, **paths: str | None) -> None:
    """
    Args:
        paths: key -> URI of what workers read or write.

    Raises:
        UserError: a local path, while there are or may be several nodes, each with a disk of its own.
    """
    local = [f"{key}={uri}" for key, uri in paths.items() if uri and storage.is_local(uri)]
    if not local or config.paths_are_shared:
        return
    capacity = read_capacity()
    if capacity.num_nodes > 1 or not capacity.has_limit:
        num_nodes = capacity.num_nodes if capacity.has_limit else "several"
        raise UserError(
            f"{', '.join(local)} is a path of this machine, while the cluster has or may start {num_nodes} nodes, each "
            "with a disk of its own. Give s3://..., or set paths_are_shared=true if all nodes have it in the same "
            "place."
        )


def least_gpu_bytes(waits: bool, patience_s: float | None = None) -> int | None:
    """Memory of the smallest GPU of the cluster, as its nodes tell it. None where no node with a GPU is up or its GPU
    cannot be asked.

    Args:
        waits: while no node with a GPU is up, wait for one that the autoscaler starts.
        patience_s: how long a GPU is waited for that other jobs have; until they give it back by default.
    """
    measure = ray.remote(num_cpus=0, num_gpus=0.01, max_calls=1)(_gpu_bytes)  # max_calls: no process stays on the GPU
    nodes = [node["NodeID"] for node in _alive() if node["Resources"].get("GPU")]
    if not nodes and not waits:
        return None
    on_each = [measure.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in nodes]
    asked = [task.remote() for task in on_each or [measure]]
    answered, late = ray.wait(asked, num_returns=len(asked), timeout=patience_s)
    for each in late:
        ray.cancel(each)
    if late:
        LOGGER.warning(
            "%d of %d node(s) with GPUs did not tell the memory of one within %.0f s: other jobs have all of them "
            "(`ray status`).",
            *(len(late), len(asked), patience_s),
        )
    return min((num_bytes for num_bytes in ray.get(answered) if num_bytes), default=None)


def _gpu_bytes() -> int | None:
    import torch  # 4 s, which tasks that only read and write need not wait for

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _head() -> dict[str, Any]:
    return next((node for node in _alive() if _HEAD in node["Resources"]), {})


@lru_cache
def _autoscaler_config(gcs_address: str) -> dict[str, Any] | None:
    """What `ray up` was given; empty where there is no autoscaler, None where KubeRay's is. Ray's autoscaler does not
    tell which nodes it may start, so the head node is asked, on which it runs."""
    head = _head()
    if not head:
        return {}
    on_head = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    read = ray.remote(num_cpus=0)(_read_autoscaler_config).options(scheduling_strategy=on_head)
    return ray.get(read.remote(gcs_address))


def _read_autoscaler_config(gcs_address: str) -> dict[str, Any] | None:
    """The config of this cluster's autoscaler, if its process is on this machine; else empty. None in a container of
    KubeRay's, which starts a head without an autoscaler where another container of the pod has one: that one asks
    Kubernetes for what it may start, and keeps it to itself."""
    if "--no-monitor" in os.environ.get(_KUBERAY_START, "").split():
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended, or is another user's
            continue
        files = [each.removeprefix(_AUTOSCALER) for each in arguments if each.startswith(_AUTOSCALER)]
        if files and f"--gcs-address={gcs_address}" in arguments:
            return yaml.safe_load(Path(files[0]).expanduser().read_text())
    return {}
