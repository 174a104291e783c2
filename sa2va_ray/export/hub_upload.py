"""Sends an exported folder to the Hugging Face hub."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError

from sa2va_ray.config import UserError

T = TypeVar("T")


def check_hub(repo: str) -> None:
    """Asks the hub who we are, before any work is done.

    Raises:
        UserError: there is no network, or no valid token.
    """
    _translated(repo, lambda: HfApi().whoami())


def upload_to_hub(folder: Path, names: Iterable[str], repo: str, private: bool) -> str:
    """Sends the files `names`. Called again after an interruption it goes on: what has arrived is skipped.

    Returns:
        the model's URL.

    Raises:
        UserError: the hub does not answer, or refuses.
    """
    api = HfApi()

    def send() -> str:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=list(names))
        return str(url)

    return _translated(repo, send)


def _translated(repo: str, operation: Callable[[], T]) -> T:
    try:
        return operation()
    except LocalTokenNotFoundError:
        raise UserError(
            f"hub_repo={repo} needs a token of the Hugging Face hub: set HF_TOKEN, or log in by `hf auth login`."
        ) from None
    except (HTTPError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"The Hugging Face hub cannot be used for hub_repo={repo}: {reason}. Check the network, the "
            "token's right to write, and HF_ENDPOINT; or leave hub_repo."
        ) from None
