"""Which code a run was made with: the commit where it can be told, and a hash of its files, which always can."""

import hashlib
import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

UNKNOWN = "unknown"

_PACKAGE_DIR = Path(__file__).parents[2]


def git_commit() -> str:
    """Commit of the code, with `-dirty` where its files differ from it: of the checkout that the package lies in, of
    the checkout of the same files that pip has installed on this machine (`make install`; the working directory of a
    submitted job has no .git), or the one that pip has installed it from. "unknown" elsewhere."""
    return _commit_of_checkout(_PACKAGE_DIR) or _commit_of_installation() or UNKNOWN


def code_sha256() -> str:
    """SHA-256 over the names and bytes of this package's Python files. The same files have the same hash in a checkout,
    in the working directory of a job and where they are installed."""
    return _sha256(_PACKAGE_DIR)


def output_of(*command: str) -> str | None:
    """The output of a command; None where it fails or is not installed."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _sha256(package_dir: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(package_dir.rglob("*.py")):
        total.update(path.relative_to(package_dir).as_posix().encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _commit_of_checkout(package_dir: Path) -> str | None:
    git = ("git", "-C", str(package_dir))
    top = output_of(*git, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package_dir.parent.resolve():
        return None  # an environment within the checkout of another project
    commit = output_of(*git, "rev-parse", "HEAD")
    changes = output_of(*git, "status", "--porcelain", "--untracked-files=all") or ""
    # A new file that is no code, such as a sheet of `jobs.preview`, changes nothing.
    is_dirty = any(not line.startswith("??") or line.endswith(".py") for line in changes.splitlines())
    return f"{commit}-dirty" if commit and is_dirty else commit


def _commit_of_installation() -> str | None:
    """What pip has written down (PEP 610): a checkout (`pip install --editable`), which counts if it has the very files
    that run, or a commit (`pip install git+https://...`)."""
    try:
        installed = distribution("sa2va-ray")
    except PackageNotFoundError:
        return None
    written = json.loads(installed.read_text("direct_url.json") or "{}")
    if written.get("dir_info", {}).get("editable"):
        checkout = Path(unquote(urlsplit(written["url"]).path)) / _PACKAGE_DIR.name
        return _commit_of_checkout(checkout) if _sha256(checkout) == code_sha256() else None
    if Path(str(installed.locate_file("sa2va_ray"))).resolve() != _PACKAGE_DIR.resolve():
        return None
    return written.get("vcs_info", {}).get("commit_id")
