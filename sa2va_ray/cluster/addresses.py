"""The addresses by which a job finds its cluster, looked at before Ray waits there."""

import socket

import grpc
from ray._common.utils import get_ray_address_file
from ray._private.gcs_utils import create_gcs_channel
from ray._private.services import find_gcs_addresses
from ray._private.utils import read_ray_address
from ray._raylet import AuthenticationMode, get_authentication_mode  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError

from sa2va_ray.config import UserError
from sa2va_ray.submission import is_submitted

_LISTENS_WITHIN_S = 5.0
_ANSWERS_WITHIN_S = 5.0
_NO_HEADER = "Invalid metadata"  # what gRPC calls a token that cannot be sent; of what we send it is the one unknown


def check_address(address: str) -> None:
    """
    Args:
        address: `RAY_ADDRESS`: HOST:PORT; empty, or `auto`.

    Raises:
        UserError: it is the dashboard's, or nothing listens there or where Ray would go without one.
        AuthenticationError: the cluster there does not take this process's token, or it has none.
    """
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS is {address}, the address of the dashboard, to which jobs are submitted. Submit the job: "
            f"ray job submit --address {address} --working-dir . -- python -m jobs.VERB ...; or, on a machine of the "
            "cluster, set RAY_ADDRESS=auto; or unset it, and the job starts a cluster of its own."
        )
    if address in ("", "auto"):
        _check_noted_cluster(address)
        address = read_ray_address() or ""
    else:
        _check_listens(address)
    if _host_and_port(address):
        _check_token(address)


def _check_listens(address: str) -> None:
    """Ray itself waits for two minutes for a head that is gone.

    Raises:
        UserError: nothing listens at HOST:PORT.
    """
    if (fault := _fault_of(address)) is None:
        return
    cure = (
        "Ray itself gave this job the address. Another account's cluster has left it in Ray's temporary folder: "
        "start the head with RAY_TMPDIR=/tmp/ray_$USER, a folder of its own, and submit the job again."
        if is_submitted()
        else "Look with `ray status`, set the address of one that runs on this machine, or unset RAY_ADDRESS: the "
        "job then starts its own."
    )
    raise UserError(f"No Ray cluster answers at RAY_ADDRESS={address}: {fault}. {cure}")


def _check_noted_cluster(address: str) -> None:
    """Ray goes to the cluster that `ray start` has noted in a file, unless it looks (`auto`) and finds one at work, and
    waits for minutes where that cluster was killed, whose file stays.

    Args:
        address: empty, or `auto`.

    Raises:
        UserError: nothing listens there.
    """
    noted = read_ray_address()
    if not noted or (address == "auto" and len(find_gcs_addresses()) == 1) or (fault := _fault_of(noted)) is None:
        return
    file = get_ray_address_file(None)
    raise UserError(
        f"No Ray cluster answers at {noted}: {fault}. `ray start` noted this address in {file}, and the cluster ended "
        "without taking it back: it was killed, or the machine was started anew. Start it again (`ray start --head`), "
        f"or have it forgotten, rm {file}, and the job starts a cluster of its own. Where the file is another "
        "account's, set RAY_TMPDIR=/tmp/ray_$USER."
    )


def _check_token(address: str) -> None:
    """Ray itself asks twenty times, a second apart, whether a wrong token has become right, and the process dies of one
    that no header can hold."""
    try:
        with create_gcs_channel(address) as channel:
            NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=_ANSWERS_WITHIN_S)
    except UnicodeDecodeError:
        raise AuthenticationError("The file of the token is no text") from None
    except grpc.RpcError as error:  # of others, such as an old version, Ray says more
        if error.code() == grpc.StatusCode.INTERNAL and error.details() == _NO_HEADER:
            raise AuthenticationError("The token has a line break within it, or a character beyond ASCII") from None
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            is_sent = get_authentication_mode() == AuthenticationMode.TOKEN
            unsent = "no token was sent, since RAY_AUTH_MODE is not `token` in this shell"
            raise AuthenticationError(error.details() if is_sent else unsent) from None


def _fault_of(address: str) -> OSError | OverflowError | None:
    """Why nothing listens at HOST:PORT; None where something does, or where this is no such address."""
    if (server := _host_and_port(address)) is None:
        return None
    try:
        socket.create_connection(server, timeout=_LISTENS_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        return error
    return None


def _host_and_port(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and "://" not in host and port.isdigit() else None
