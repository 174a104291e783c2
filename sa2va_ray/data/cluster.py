"""What a run asks of the cluster, held against what is there."""

from collections.abc import Mapping

import ray

from sa2va_ray.config import UserError


def check_cluster(wanted: Mapping[str, float], cure: str) -> None:
    """Ray would wait for ever, with only a warning, for what the cluster does not have.

    Args:
        wanted: resource -> amount, of the workers and their data pipelines together.
        cure: which keys to lower, a sentence.

    Raises:
        UserError: a resource of which there is less.
    """
    present = ray.cluster_resources()
    for resource, amount in wanted.items():
        if present.get(resource, 0.0) < amount:
            raise UserError(
                f"The run wants {amount:g} {resource} (workers and their data pipelines), the cluster has "
                f"{present.get(resource, 0.0):g}. {cure}"
            )
