"""Lists that a user gives as a CSV file."""

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence

from sa2va_ray import storage
from sa2va_ray.config import UserError

_SEPARATORS = ",;\t"


def read_table(uri: str, key: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of the line (from 1) and its texts by column, of each line below the first, which names the columns. Texts
    have no blanks around them, and Unicode form NFC, as names of files are compared; a column that is not there is
    empty. Commas, semicolons or tabs separate, whichever the first line has most of: that of Excel depends on its
    language.

    Args:
        key: of the config, for messages.
        columns: that are read.

    Raises:
        UserError: no such file, or no CSV in UTF-8. It names no content.
    """
    try:
        lines = io.StringIO(storage.read_bytes(uri).decode("utf-8-sig"), newline=None)
        separator = max(_SEPARATORS, key=lines.readline().count)
        lines.seek(0)
        reader = csv.DictReader(lines, delimiter=separator)
        rows = [(reader.line_num, row) for row in reader]
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        told = f"`{key}` is missing, or no CSV file in UTF-8 with the lines `{','.join(columns)}`."
        raise UserError(told) from None
    for number, row in rows:
        cells = {(name or "").strip(): cell for name, cell in row.items()}
        yield number, {column: _cell(cells.get(column)) for column in columns}


def _cell(text: object) -> str:
    return unicodedata.normalize("NFC", text.strip()) if isinstance(text, str) else ""
