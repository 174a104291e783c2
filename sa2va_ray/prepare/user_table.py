"""Lists that a user gives as a CSV file."""

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence

from sa2va_ray import storage
from sa2va_ray.config import UserError

_SEPARATORS = ",;\t"


def read_table(uri: str, key: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of the line (from 1) and its texts by column, of each line below the first, which names the columns, in
    upper or lower case; without lines that are empty, as spreadsheets leave them at the end. Texts have no blanks
    around them, and Unicode form NFC, as names of files are compared; a column that is not there is empty. Commas,
    semicolons or tabs separate, whichever the first line has most of: that of Excel depends on its language.

    Args:
        key: of the config, for messages.
        columns: that are read.

    Raises:
        UserError: no such file, no CSV in UTF-8, or a quotation mark that makes one text of several lines, which would
            be missing without a word. It names no content.
    """
    try:
        lines = io.StringIO(storage.read_bytes(uri).decode("utf-8-sig"), newline=None)
        separator = max(_SEPARATORS, key=lines.readline().count)
        lines.seek(0)
        reader = csv.DictReader(lines, delimiter=separator, strict=True)
        rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise UserError(f"There is no file at the place that `{key}` names.") from None
    except UnicodeDecodeError:
        raise UserError(f'`{key}` is no text in UTF-8. Excel writes that as "CSV UTF-8".') from None
    except csv.Error:
        raise UserError(
            f"`{key}` is no CSV file with the lines `{','.join(columns)}`, or a quotation mark in it is not closed."
        ) from None
    for number, row in rows:
        cells = {(name or "").strip().casefold(): cell for name, cell in row.items()}
        texts = {column: _cell(cells.get(column)) for column in columns}
        if any("\n" in text for text in texts.values()):
            raise UserError(
                f"A text of `{key}` goes on over several lines, up to line {number}. Its quotation marks are not where "
                "they belong."
            )
        if any(texts.values()):
            yield number, texts


def _cell(text: object) -> str:
    return unicodedata.normalize("NFC", text.strip()) if isinstance(text, str) else ""
