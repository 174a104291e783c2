"""Reading a multipart form: its images, and its other fields as text."""

from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from sa2va_ray.serve.config import LimitsConfig
from sa2va_ray.serve.problems import Problem

_IMAGE = "file"
_MAX_FIELDS = 32
_TAIL_BYTES = 4096


async def read_form(request: Request, limits: LimitsConfig) -> tuple[list[bytes], list[tuple[str, str]]]:
    """The images, which are the parts `file`, with a file name or without one, and name and text of each other part.

    Raises:
        Problem: not a form, or one that ends early, a file under another name, or text that is not UTF-8.
    """
    tail = bytearray()
    # Parts without a file name come as text. As Latin-1 it has a character for each byte, and loses nothing.
    headers = Headers({"content-type": f"{request.headers['content-type']}; charset=latin-1"})
    parser = MultiPartParser(
        headers,
        _keeping_tail(request.stream(), tail),
        max_files=limits.max_batch_images,
        max_fields=limits.max_batch_images + _MAX_FIELDS,
        max_part_size=limits.max_upload_bytes,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, "Not a form", error.message, "Check it with an HTTP client library.") from None
    _check_end(request.headers["content-type"], tail)
    try:
        parts = [(name, await _content(name, value)) for name, value in form.multi_items()]
    finally:
        await form.close()
    images = [content for name, content in parts if name == _IMAGE]
    return images, [(_text(_bytes(name)), _text(content)) for name, content in parts if name != _IMAGE]


async def _keeping_tail(stream: AsyncIterator[bytes], tail: bytearray) -> AsyncGenerator[bytes, None]:
    async for chunk in stream:
        tail += chunk[-_TAIL_BYTES:]
        del tail[:-_TAIL_BYTES]
        yield chunk


def _check_end(content_type: str, tail: bytearray) -> None:
    """The parser takes what has come for the whole, and leaves out a part that was cut off."""
    boundary = parse_options_header(content_type)[1][b"boundary"]
    if b"--" + boundary + b"--" not in tail:
        raise Problem(400, "Cut off", "The form ends without its last boundary.", "Send it again, whole.")


async def _content(name: str, value: UploadFile | str) -> bytes:
    if isinstance(value, str):
        return _bytes(value)
    if name != _IMAGE:
        raise Problem(422, "Wrong field", "A file stands in another field than 'file'.", "Name the field 'file'.")
    return await value.read()


def _bytes(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise Problem(400, "Not a form", "Its Content-Type cannot be read.", "Leave it to the HTTP library.") from None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Problem(422, "Wrong field", "A field of the form is not UTF-8.", "Send its text as UTF-8.") from None
