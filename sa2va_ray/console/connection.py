"""How a shell reaches a cluster and a store: the lines of `sa2va-ray env`."""

import json
import os
import shlex
import stat
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sa2va_ray import storage
from sa2va_ray.config import Config, UserError
from sa2va_ray.demo.connection_file import CONNECTION_NAME, STATE_DIR

_ANSWERS_WITHIN_S = 5.0


def _existing_file(text: str) -> str:
    file = storage.absolute(text)
    if not os.path.isfile(file):
        raise ValueError(f"there is no file {file}")
    return file


def _url(text: str) -> str:
    try:
        if urlsplit(text).port == 0:
            raise ValueError
    except ValueError:
        raise ValueError("is no URL of a host and a port: http://HOST:PORT") from None
    return text


ExistingFile = Annotated[str, AfterValidator(_existing_file)]
ServerUrl = Annotated[str, Field(pattern=r"^https?://[^\s/]+/?$"), AfterValidator(_url)]


class Connection(Config):
    """A cluster and a store, as this machine reaches them. What is not given is left as the shell has it."""

    dashboard: ServerUrl | None = None
    """Where `ray job submit` and `serve deploy` go: http://HOST:8265."""
    address: str | None = Field(None, pattern=r"^(auto|[^\s/:]+:\d+)$")
    """Where a verb by hand goes, on a machine of the cluster: HOST:6379."""
    token_file: ExistingFile | None = None
    """File of Ray's token."""
    store_endpoint: ServerUrl | None = None
    """URL of an S3 store that is not Amazon's."""
    store_region: str | None = None
    """Region of the store."""
    store_credentials: ExistingFile | None = None
    """File with the store's keys, as ~/.aws/credentials has them."""

    def variables(self) -> Iterator[tuple[str, str, str]]:
        """Name, value and meaning of each environment variable."""
        if self.token_file:
            yield "RAY_AUTH_MODE", "token", "Ray asks for a token"
            yield "RAY_AUTH_TOKEN_PATH", self.token_file, "the file that holds it"
        if self.dashboard:
            yield "RAY_API_SERVER_ADDRESS", self.dashboard, "ray job submit, logs, stop"
            yield "RAY_DASHBOARD_ADDRESS", self.dashboard, "serve deploy, status, shutdown"
        if self.address:
            yield "RAY_ADDRESS", self.address, "verbs by hand: sa2va-ray VERB, python -m jobs.VERB"
        if self.store_endpoint:
            yield "AWS_ENDPOINT_URL", self.store_endpoint, "the store of s3://..."
        if self.store_region:
            yield "AWS_DEFAULT_REGION", self.store_region, "its region"
        if self.store_credentials:
            yield "AWS_SHARED_CREDENTIALS_FILE", self.store_credentials, "the file with its keys"
            yield "AWS_EC2_METADATA_DISABLED", "true", "keys are not asked of Amazon's machines"


def print_connection(settings: Sequence[str]) -> None:
    """Prints `export` lines for a shell to stdout, and what answers to stderr.

    Args:
        settings: YAML files and key=value of `Connection`; the demo's own by default.

    Raises:
        UserError: wrong keys, files that are not there, or no settings in a folder without a demo.
    """
    demo = STATE_DIR / CONNECTION_NAME
    if not settings and not demo.is_file():
        raise UserError(
            f"There is no {demo}: no demo runs in this folder (`make demo` starts one). For another cluster "
            "give its keys, dashboard=http://HOST:8265 token_file=FILE, or a YAML file of them; see --help."
        )
    connection = Connection.load(settings or [str(demo)])
    scripts = sysconfig.get_path("scripts")
    if scripts not in os.environ["PATH"].split(os.pathsep):
        print(f"export PATH={shlex.quote(scripts)}:$PATH  # ray, serve, python and sa2va-ray of this installation")
    if connection.token_file and not connection.address:
        print("unset RAY_AUTH_TOKEN RAY_ADDRESS  # of another cluster")
    elif connection.token_file:
        print("unset RAY_AUTH_TOKEN  # of another cluster; it would come before the file")
    if connection.store_credentials:
        print("unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN  # they would come before the file")
    for name, value, meaning in connection.variables():
        print(f"export {name}={shlex.quote(value)}  # {meaning}")
    for line in _answers(connection):
        print(line, file=sys.stderr)


def _answers(connection: Connection) -> Iterator[str]:
    """What answers now, and what to do about what does not."""
    for file in filter(None, (connection.token_file, connection.store_credentials)):
        if Path(file).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield f"warning: others on this machine can read {file}: chmod 600 it."
    if connection.dashboard:
        yield _cluster_answer(connection.dashboard, connection.token_file)
    if connection.store_endpoint:
        yield _store_answer(connection.store_endpoint)


def _cluster_answer(dashboard: str, token_file: str | None) -> str:
    token = Path(token_file).read_bytes().strip() if token_file else b""
    if token_file and (not token.isascii() or len(token.split()) != 1):
        return f"{token_file} holds no token, which is one word: `ray get-auth-token --generate` makes a file of one."
    headers = {"Authorization": f"Bearer {token.decode()}"} if token else {}
    try:
        version = json.loads(_get(f"{dashboard.rstrip('/')}/api/version", headers))["ray_version"]
    except urllib.error.HTTPError as error:
        cure = "its token is another one" if error.code in (401, 403) else "something else listens there"
        return f"Ray at {dashboard} refuses with status {error.code}: {cure}."
    except (ValueError, KeyError, HTTPException):
        return f"What listens at {dashboard} is not Ray's dashboard, whose port is 8265 where nothing else was said."
    except OSError as error:
        reason = getattr(error, "reason", error)
        return f"Ray at {dashboard} does not answer ({reason}): is it up, and does a tunnel lead there?"
    return f"Ray {version} answers at {dashboard}."


def _store_answer(endpoint: str) -> str:
    try:
        content = _get(f"{endpoint.rstrip('/')}/sa2va-ray-probe", {})
    except urllib.error.HTTPError as error:
        content = error.read()  # a store refuses who brings no key; it is there
    except HTTPException:
        content = b""
    except OSError as error:
        return f"The store at {endpoint} does not answer ({getattr(error, 'reason', error)}): is it up?"
    if b"<?xml" not in content[:100]:
        return f"What listens at {endpoint} does not answer as an S3 store does: is it another port?"
    return f"The store answers at {endpoint}."


def _get(url: str, headers: dict[str, str]) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers), timeout=_ANSWERS_WITHIN_S) as reply:
        return reply.read()
