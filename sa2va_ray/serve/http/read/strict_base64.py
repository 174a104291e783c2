"""Base64 of a large image, decoded so that other threads have their turn: a call of `base64` holds the interpreter's
lock to its end, a quarter of a second for 24 MiB."""

import base64
import io

SMALL = 100_000
"""Characters or bytes that are worked on in less time than a thread takes to begin."""
_PIECE = 2**18  # characters, a multiple of 4: some 2 ms


def decode_strict_base64(text: str | bytes) -> bytes:
    """
    Raises:
        ValueError: not base64 of RFC 4648, with its padding and nothing else.
    """
    if isinstance(text, str):
        text = text.encode("ascii")
    if text.find(b"=", 0, max(0, len(text) - 2)) != -1:
        raise ValueError("There is padding before the end.")
    decoded = io.BytesIO()
    for start in range(0, len(text), _PIECE):
        decoded.write(base64.b64decode(text[start : start + _PIECE], validate=True))
    return decoded.getvalue()
