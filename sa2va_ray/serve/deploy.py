"""Deploys a Serve file and waits until it answers: what `serve deploy` does, and what that leaves out.

Serve builds an application again where its `args` have changed (`get_app_code_version`), and starts replicas again
where the build is another. So the same file does nothing about a model that was exported anew to its URI, nor about
replicas that have failed. Here `args.revision` gets a text that tells both: the hash of the models' hashes, and the
time of a deployment that is tried again.
"""

import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.exceptions import AuthenticationError
from ray.serve.schema import ServeDeploySchema

from sa2va_ray.cluster.resources import first_sentence
from sa2va_ray.cluster.streams import user_message
from sa2va_ray.config import UserError
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.deploy_checks import check_keys, is_head_here, models_hash
from sa2va_ray.serve.deploy_config import DeployConfig
from sa2va_ray.telemetry import LOGGER, configure_logging

_BUILDER = "sa2va_ray.serve.app:build_app"
_POLL_S = 1.0
_SAY_AGAIN_S = 8.0
_MAX_LOST_POLLS = 30
_LISTENS_WITHIN_S = 30.0
_NO_PORT = "Failed to bind to address"
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
_DASHBOARD = "http://127.0.0.1:8265"
_DEFAULT_HTTP = {"host": "127.0.0.1", "port": 8000}


def deploy(config: DeployConfig) -> list[str]:
    """Deploys, waits for the replicas with progress in the log, and returns the addresses of the applications.

    Raises:
        UserError: a wrong file, no cluster, a model or a file of API keys that is not there or is wrong (nothing is
            changed then), or the reason for which an application does not start.
    """
    configure_logging()
    values = config.serve_values()
    args = [each for application in values["applications"] if (each := _args_of(application))]
    client = _client()
    running, is_here = _details(client)["applications"], is_head_here(_dashboard())
    for each in args:
        check_keys(each.api_keys_file, is_here)
    values["applications"] = [
        _with_revision(each, running.get(each.get("name", "")), is_here) for each in values["applications"]
    ]
    try:
        schema = ServeDeploySchema.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise UserError("Ray Serve does not take the file:\n  " + "\n  ".join(lines)) from None
    try:
        client.deploy_applications(schema.model_dump(exclude_unset=True))
    except (RuntimeError, ConnectionError) as error:
        if _NO_PORT in str(error):
            raise UserError(_port_is_taken(values.get("http_options") or {})) from None
        raise UserError(f"Ray Serve does not take the file: {_last_line(str(error))}") from None
    names = [application.name for application in schema.applications]
    details = _wait(client, names, config.wait_s)
    _warn_of_other_address(details, values.get("http_options") or {})
    addresses = [_address(details, name) for name in names]
    for name, address in zip(names, addresses, strict=True):
        LOGGER.info("serving: %s at %s; look with curl -f %s/readyz", name, address, address.rstrip("/"))
    return addresses


def _client() -> ServeSubmissionClient:
    try:
        return ServeSubmissionClient(_dashboard())
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        raise UserError(
            f"No Ray dashboard takes the deployment at {_dashboard()}: {first_sentence(error)} Set "
            "RAY_DASHBOARD_ADDRESS to the cluster's http://HOST:8265, and its token (`sa2va-ray env --help`)."
        ) from None


def _dashboard() -> str:
    return os.environ.get("RAY_DASHBOARD_ADDRESS") or os.environ.get("RAY_API_SERVER_ADDRESS") or _DASHBOARD


def _details(client: ServeSubmissionClient) -> dict[str, Any]:
    try:
        return client.get_serve_details()
    except (ConnectionError, RuntimeError) as error:
        raise UserError(f"Ray Serve does not tell its state: {_last_line(str(error))}") from None


def _args_of(application: Mapping[str, Any]) -> ServeArgs | None:
    """Those of an endpoint of ours; None for another application."""
    return ServeArgs.parse(application.get("args") or {}) if application.get("import_path") == _BUILDER else None


def _with_revision(application: dict[str, Any], running: Mapping[str, Any] | None, is_here: bool) -> dict[str, Any]:
    """The application, with a `revision` that is another one where there is something to do anew.

    Args:
        running: what Serve tells of the application of this name.

    Raises:
        UserError: a model is not there, or is no exported model.
    """
    parsed = _args_of(application)
    if parsed is None:
        return application
    wanted = f"{parsed.revision} {models_hash(parsed, is_here) or _now()}".strip()
    deployed = _deployed_revision(running)
    if running and running["status"] in _FAILED:
        LOGGER.info("%s is %s: it is tried again", application.get("name"), running["status"])
        wanted = f"{wanted} again at {_now()}"
    elif deployed.startswith(wanted):
        wanted = deployed
    return application | {"args": application["args"] | {"revision": wanted}}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _deployed_revision(running: Mapping[str, Any] | None) -> str:
    config = (running or {}).get("deployed_app_config") or {}
    return (config.get("args") or {}).get("revision", "")


def _wait(client: ServeSubmissionClient, names: list[str], wait_s: float) -> dict[str, Any]:
    """Returns Serve's details when all applications run.

    Raises:
        UserError: one that has failed, or that does not run after `wait_s`.
    """
    started_s = said_s = time.monotonic()
    said, reason, runs_since_s = "", None, None
    for details in _poll(client):
        applications = {name: details["applications"].get(name, {"status": "NOT_STARTED"}) for name in names}
        for name, application in applications.items():
            if application["status"] in _FAILED:
                raise UserError(
                    f"{name} does not run: {_reason(application).rstrip('.')}. Mend it, and deploy the same file again."
                )
            if (found := _own_reason(application)) and found != reason:
                LOGGER.warning("a replica did not start, Serve tries it again: %s", found)
                reason = found
        now_s, state = time.monotonic(), "; ".join(_state(*each) for each in applications.items())
        if state != said or now_s - said_s > _SAY_AGAIN_S:
            LOGGER.info("deploying, %.0f s: %s", now_s - started_s, state)
            said, said_s = state, now_s
        if all(application["status"] == "RUNNING" for application in applications.values()):
            if _is_listening(details):
                return details
            runs_since_s = runs_since_s or now_s
            if now_s - runs_since_s > _LISTENS_WITHIN_S:
                raise UserError(_port_is_taken(details.get("http_options") or {}))
        if now_s - started_s > wait_s:
            raise UserError(
                f"Not all replicas run after wait_s={wait_s:g} s: {state}. The deployment goes on: `serve status`. "
                "Replicas that wait have no room on the cluster, or their model is large; raise wait_s."
            )
    raise AssertionError("the poll has no end")


def _poll(client: ServeSubmissionClient) -> Iterator[dict[str, Any]]:
    """Serve's details, again and again. A dashboard may be away for a while.

    Raises:
        UserError: it stays away.
    """
    num_lost = 0
    while True:
        try:
            yield client.get_serve_details()
            num_lost = 0
        except (ConnectionError, RuntimeError) as error:
            num_lost += 1
            if num_lost > _MAX_LOST_POLLS:
                raise UserError(f"The dashboard does not answer any more: {_last_line(str(error))}") from None
        time.sleep(_POLL_S)


def _is_listening(details: Mapping[str, Any]) -> bool:
    """Whether a proxy of Serve's is healthy, or none is wanted. One whose port another program has never is, and Serve
    starts it again without end."""
    proxies = details.get("proxies") or {}
    return not proxies or any(each.get("status") == "HEALTHY" for each in proxies.values())


def _port_is_taken(http_options: Mapping[str, Any]) -> str:
    host, port = (http_options.get(key, default) for key, default in _DEFAULT_HTTP.items())
    return (
        f"Ray Serve does not listen at {host}:{port}. Most likely another program of that machine has the port, so "
        f"that what answers there is not this endpoint. End that program (`ss -ltnp 'sport = :{port}'` shows it) and "
        "deploy again; or `serve shutdown -y`, give another http_options.port in the file, and deploy that."
    )


def _state(name: str, application: Mapping[str, Any]) -> str:
    parts = []
    for deployment, each in (application.get("deployments") or {}).items():
        num_running = sum(replica["state"] == "RUNNING" for replica in each.get("replicas", []))
        parts.append(f"{deployment} {num_running} of {each.get('target_num_replicas', '?')} replicas")
    return f"{name} is {application['status']}" + (f" ({', '.join(parts)})" if parts else "")


def _messages(application: Mapping[str, Any]) -> Iterator[str]:
    yield application.get("message") or ""
    for each in (application.get("deployments") or {}).values():
        yield each.get("message") or ""


def _own_reason(application: Mapping[str, Any]) -> str | None:
    """The message of a `UserError` of a replica or of the builder."""
    found = (user_message(RuntimeError(message)) for message in _messages(application))
    return next((" ".join(each.split()) for each in found if each), None)


def _reason(application: Mapping[str, Any]) -> str:
    if own := _own_reason(application):
        return own
    lines = [_last_line(message) for message in _messages(application) if message.strip()]
    return lines[-1] if lines else f"Serve says {application['status']} and no reason; its logs are on the dashboard."


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return lines[-1] if lines else "no reason is told."


def _warn_of_other_address(details: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    running = details.get("http_options") or {}
    for key in _DEFAULT_HTTP.keys() & wanted.keys() & running.keys():
        if running[key] != wanted[key]:
            LOGGER.warning(
                "the file has http_options.%s: %s, Serve runs with %s, which stays until `serve shutdown`",
                *(key, wanted[key], running[key]),
            )


def _address(details: Mapping[str, Any], name: str) -> str:
    http = _DEFAULT_HTTP | (details.get("http_options") or {})
    prefix = details["applications"][name].get("route_prefix") or "/"
    host = "NODE" if http["host"] == "0.0.0.0" else http["host"]
    return f"http://{host}:{http['port']}{prefix}"
