"""Which code a run was made with: the commit where it can be told, and a hash of its files, which always can."""

import hashlib
import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

UNKNOWN = "unknown"

_PACKAGE_DIR = Path(__file__).parents[2]


def git_commit() -> str:
    """Commit of the code, with `-dirty` where files differ from it: of the checkout that the package lies in, or the
    one that pip has installed it from. "unknown" elsewhere: the working directory of a submitted job has no .git."""
    return _commit_of_checkout() or _commit_of_installation() or UNKNOWN


def code_sha256() -> str:
    """SHA-256 over the names and bytes of this package's Python files. The same files have the same hash in a checkout,
    in the working directory of a job and where they are installed."""
    total = hashlib.sha256()
    for path in sorted(_PACKAGE_DIR.rglob("*.py")):
        total.update(path.relative_to(_PACKAGE_DIR).as_posix().encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def output_of(*command: str) -> str | None:
    """The output of a command; None where it fails or is not installed."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _commit_of_checkout() -> str | None:
    git = ("git", "-C", str(_PACKAGE_DIR))
    top = output_of(*git, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != _PACKAGE_DIR.parent.resolve():
        return None  # an environment within the checkout of another project
    commit = output_of(*git, "rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and output_of(*git, "status", "--porcelain") else commit


def _commit_of_installation() -> str | None:
    """What pip has written down (PEP 610), for `pip install git+https://...`."""
    try:
        installed = distribution("sa2va-ray")
    except PackageNotFoundError:
        return None
    written = installed.read_text("direct_url.json")
    if written is None or Path(str(installed.locate_file("sa2va_ray"))).resolve() != _PACKAGE_DIR.resolve():
        return None
    return json.loads(written).get("vcs_info", {}).get("commit_id")
