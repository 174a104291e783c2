"""Where a Label Studio server is, and which images it holds."""

import base64
import os
import re

from pydantic import Field, field_validator
from yarl import URL

from sa2va_ray.config import Config, UserError

SCHEME = "label_studio://"
"""Of a project as a `source`: `label_studio://7`."""

_PROJECT = re.compile(rf"{SCHEME}([1-9][0-9]{{0,17}})/?")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
_CLOUD = ("s3://", "s3s://", "gs://", "azure-blob://", "azure_spi://", "dbfs:/")  # what it reads through a storage
_IMAGE_PATH = re.compile(r"/(data/upload/.+|data/local-files/?|(tasks|projects)/\d+/(resolve|presign)/?)", re.DOTALL)


class LabelStudioConfig(Config):
    """The one Label Studio server that is asked, and where its token is."""

    url: str = Field(max_length=1000)
    """Address of its first page, `http://127.0.0.1:8080`. Nothing else is asked, and the token goes nowhere else."""
    token_env: str = "LABEL_STUDIO_TOKEN"
    """Environment variable that has the token: a personal access token or a legacy one, of Label Studio's page
    Account & Settings. The token itself stands in no config."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        try:
            parsed = URL(url)
            is_plain = parsed.scheme in ("http", "https") and bool(parsed.host) and parsed.user is None
            is_plain = is_plain and not (parsed.query_string or parsed.fragment or parsed.password)
        except ValueError:
            is_plain = False
        if not is_plain:
            raise ValueError("is no http:// or https:// address without user and query, such as http://127.0.0.1:8080")
        return url.rstrip("/")

    def read_token(self) -> str:
        """
        Raises:
            UserError: `token_env` names no variable of this process; it is not repeated, since it may be the token.
        """
        if not _VARIABLE.fullmatch(self.token_env):
            raise UserError(
                "label_studio.token_env is the name of an environment variable, in capital letters, not the token."
            )
        token = os.environ.get(self.token_env, "").strip()
        if not token or not token.isascii() or not token.isprintable():
            raise UserError(
                f"The environment has no Label Studio token in {self.token_env}. Take one from Label Studio's page "
                f"Account & Settings: export {self.token_env}=... ; of an endpoint, where Ray is started."
            )
        return token

    def address(self, path: str, **query: str | int) -> URL:
        """Of a page of this server."""
        return URL(f"{self.url}{path}").with_query({name: str(value) for name, value in query.items()})

    def image_address(self, image: str, task: int) -> URL | None:
        """Where this server has the image of a task; None where it is not the one that has it.

        Args:
            image: as the task's data say: a path of this server, its whole address, or a file of a cloud storage that
                the server is connected with.
        """
        if image.startswith(_CLOUD):
            encoded = base64.urlsafe_b64encode(image.encode(errors="replace")).decode()
            return self.address(f"/tasks/{task}/resolve/", fileuri=encoded)
        base = URL(self.url)
        try:
            url = base.join(URL(image))
        except ValueError:
            return None
        path = url.raw_path.removeprefix(base.raw_path.rstrip("/"))
        if not self._is_host_of(url) or not _IMAGE_PATH.fullmatch(path) or ".." in url.path.split("/"):
            return None
        return URL(self.url + path, encoded=True).with_query(url.query)

    def holds(self, url: URL) -> bool:
        """Whether an address is one of this server."""
        base = URL(self.url).raw_path.rstrip("/")
        return self._is_host_of(url) and f"{url.raw_path}/".startswith(f"{base}/") and ".." not in url.path.split("/")

    def _is_host_of(self, url: URL) -> bool:
        base = URL(self.url)
        return url.user is None and (url.scheme, url.host, url.port) == (base.scheme, base.host, base.port)


def project_number(source: str) -> int | None:
    """The project that a `source` names; None where it is none."""
    match = _PROJECT.fullmatch(source)
    return int(match[1]) if match else None


def is_path(image: str) -> bool:
    """Whether what a task calls its image is a path of the server that the task comes from."""
    return image.startswith("/")
