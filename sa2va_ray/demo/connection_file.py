"""Where the demo says how a shell reaches its cluster and store, for `sa2va-ray env`."""

from collections.abc import Mapping
from pathlib import Path

import yaml

STATE_DIR = Path(".demo")
CONNECTION_NAME = "connection.yaml"


def write_connection(state_dir: Path, env: Mapping[str, str]) -> Path:
    """Writes `connection.yaml` with the keys of `console.connection.Connection`, and beside it the two files with
    secrets, which only their owner can read.

    Args:
        env: of a stack whose cluster and store run.
    """
    token_file = _write_secret(state_dir / "auth_token", env["RAY_AUTH_TOKEN"])
    credentials = _write_secret(
        state_dir / "store_credentials",
        f"[default]\naws_access_key_id = {env['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {env['AWS_SECRET_ACCESS_KEY']}",
    )
    file = state_dir / CONNECTION_NAME
    keys = {
        "dashboard": env["RAY_API_SERVER_ADDRESS"],
        "address": env["RAY_ADDRESS"],
        "token_file": str(token_file),
        "store_endpoint": env["AWS_ENDPOINT_URL"],
        "store_region": env["AWS_DEFAULT_REGION"],
        "store_credentials": str(credentials),
    }
    file.write_text(yaml.safe_dump(keys, sort_keys=False))
    return file


def _write_secret(file: Path, text: str) -> Path:
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(text + "\n")
    return file.absolute()
