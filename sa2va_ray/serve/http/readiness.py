"""How many replicas run, as Serve's controller knows it."""

import asyncio
import time

from ray import serve

_FRESH_S = 1.0


class RunningReplicas:
    """The controller is asked once a second at most, however often health checks come."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._asked_s = -_FRESH_S
        self._running: dict[str, int] = {}

    async def get(self) -> dict[str, int]:
        """Number of running replicas of each deployment of this application, by its name.

        Raises:
            RayError: the controller does not answer.
        """
        async with self._lock:
            if time.monotonic() - self._asked_s >= _FRESH_S:
                self._running = await asyncio.to_thread(_ask_controller)
                self._asked_s = time.monotonic()
        return self._running


def _ask_controller() -> dict[str, int]:
    deployments = serve.status().applications[serve.get_replica_context().app_name].deployments
    states = {name: each.replica_states.items() for name, each in deployments.items()}
    return {name: sum(number for state, number in each if state == "RUNNING") for name, each in states.items()}
