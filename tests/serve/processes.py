"""The processes of the endpoint on the tests' own cluster."""

import os

import psutil


def replicas_of(deployment: str) -> list[psutil.Process]:
    """The replicas of `Ingress`, or of `model-NAME`."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if f"ServeReplica:sa2va:{deployment}" in " ".join(process.info["cmdline"] or [])
        and (process.info["environ"] or {}).get("RAY_AUTH_TOKEN") == os.environ["RAY_AUTH_TOKEN"]
    ]
