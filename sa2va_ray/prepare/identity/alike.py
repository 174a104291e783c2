"""Patients who may be one person, whose name or number was typed in two ways."""

import re
from collections import defaultdict
from collections.abc import Mapping

_MAX_TOLD = 10


def explain_alike(patients: Mapping[int, str]) -> list[str]:
    """A sentence where names differ by upper and lower case, blanks and zeros before a number alone, as in tables that
    several people have filled, or a spreadsheet has read as numbers. It names nobody.

    Args:
        patients: of each item, by its number, what the source calls the patient.
    """
    first: dict[str, dict[str, int]] = defaultdict(dict)  # spelling -> name -> its first item
    for item, name in sorted(patients.items()):
        first[_spelling(name)].setdefault(name, item)
    alike = [list(names.values()) for names in first.values() if len(names) > 1]
    if not alike:
        return []
    told = "; ".join(" and ".join(map(str, items)) for items in alike[:_MAX_TOLD])
    return [
        f"{sum(map(len, alike))} patients may be {len(alike)}: their names differ by upper and lower case, blanks or "
        f"zeros before a number alone (items {told}{'; ...' if len(alike) > _MAX_TOLD else ''}). Each is a patient of "
        "its own here, so a person may be trained on and tested on. If they are one, write the name in one way."
    ]


def _spelling(name: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"\s+", "", name.casefold()))
