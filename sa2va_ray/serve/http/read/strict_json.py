"""JSON from a stranger: what readers take differently, or cannot work with, is refused where it comes in."""

import json
import math
import sys
from typing import Any

_MAX_DIGITS = sys.float_info.max_10_exp


def parse_strict_json(data: bytes | str) -> Any:
    """A value of RFC 8259 as Python has it.

    Raises:
        ValueError: not UTF-8, not JSON, nested too deep; a key twice in an object, of which readers take one or the
            other; NaN, infinite, or a number beyond those of a double; half of a surrogate pair, which is no text. The
            message holds nothing of the data.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_float, parse_int=_int)
        if isinstance(data, str) or "\\u" in text:  # without escapes UTF-8 has kept halves of pairs out
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise ValueError("It is not UTF-8.") from None
    except UnicodeEncodeError:
        raise ValueError("A text has half of a surrogate pair.") from None
    except RecursionError:
        raise ValueError("It is nested too deep.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}, at character {error.pos}.") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("An object has a key twice.")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON.")


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("A number is too large.")
    return number


def _int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"A whole number has more than {_MAX_DIGITS} digits.")
    return int(digits)
