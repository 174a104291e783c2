"""Pseudonyms in place of the names of patients, recordings and files.

A pseudonym is a keyed hash: without the key nobody can find it by hashing all likely names. The same key gives the same
pseudonyms, so that a data set that has grown keeps its ids and its splits.
"""

import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass

from sa2va_ray.prepare.identity.patient_pattern import PatientPaths
from sa2va_ray.prepare.records import Record, Rejected

NAME_MISMATCH = "name_mismatch"

_NUM_HEX = 16
_MIN_NAME_LETTERS = 4  # a shorter name is in many words
# Letters that Unicode does not take apart into a plain one and an accent.
_LETTERS = str.maketrans("øØłŁđĐðÐıħĦ", "oOlLdDdDihH") | {
    ord(letter): plain for letter, plain in {"æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "þ": "th", "Þ": "Th"}.items()
}
# Chinese, Japanese, Korean
_WITHOUT_BLANKS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]{2,}")
_MAX_DIGITS = 18  # a frame number is stored as int64


@dataclass(frozen=True)
class Identity:
    """What a sample has in place of its file name; the fields are columns of the sample."""

    sample_id: str
    patient_id: str
    run_id: str
    frame: int


class Pseudonyms:
    def __init__(self, key: bytes, patient_pattern: str) -> None:
        self._key = key
        self._paths = PatientPaths(patient_pattern)

    def identify(self, record: Record) -> Identity:
        """Identity of an image, from what its file says of itself, else from its path.

        Raises:
            Rejected: a path that does not match the pattern.
        """
        if record.patient is not None:
            patient, frame = record.patient, record.frame or 0
            run: tuple[str, ...] = (record.run,) if record.run else (patient, "")
        else:
            groups = self._match(record.plain_name or record.name)
            patient, frame = groups["patient"], _to_frame(groups.get("frame") or "0")
            run = (groups["patient"], groups.get("run") or "")  # a run is numbered within its patient
        return Identity(self.sample_id(record.name), self.patient_id(patient), self._hash("run", *run), frame)

    def patient_of(self, record: Record) -> str:
        """The patient's name or number in the source. Raises as `identify` does."""
        return record.patient or self._match(record.plain_name or record.name)["patient"]

    def sample_id(self, name: str) -> str:
        """Pseudonym of a file's name in the source."""
        return self._hash("sample", name)

    def patient_id(self, patient: str) -> str:
        """Pseudonym of a patient's name in the source."""
        return self._hash("patient", patient)

    def annotator_id(self, annotator: str) -> str:
        """Pseudonym of what the source calls an annotator."""
        return self._hash("annotator", annotator)

    def _match(self, name: str) -> dict[str, str]:
        groups = self._paths.match(name)
        if groups is None:
            raise Rejected(NAME_MISMATCH, "The file's path does not match `patient_pattern`; the patient is unknown.")
        return groups

    def _hash(self, *parts: str) -> str:
        # JSON files may name an annotator by half a character.
        text = "\0".join(parts).encode(errors="surrogatepass")
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()[:_NUM_HEX]


def names_patient(text: str, patient: str) -> bool:
    """Whether a text holds the name or number that a path or a DICOM file has for a patient.

    Accents, upper and lower case, what stands between the words, how a letter is spelt that English lacks (ue for an u
    with dots) and zeros before a number do not count: "Mueller, Hans" is "MullerHans", "0012" is "12". A word of the
    name of four letters and more is found alone, too, as is a number of four digits and more, and two signs of a script
    that has no blanks between words; what is shorter only as a whole.
    """
    words, names = _words(text), _words(patient)
    written, name = "".join(words), "".join(names)
    if len(name) >= _MIN_NAME_LETTERS and (name in written or _spelling(name) in _spelling(written)):
        return True
    if any(part in written for part in _WITHOUT_BLANKS.findall(name)):
        return True
    parts = _tokens(words)
    if _telling_parts(names) & set(parts):
        return True
    if re.search(r"\d", name) and re.search(r"[^\W\d]", name):
        return _holds(parts, _tokens(names))
    return _holds([_spelling(word) for word in words], [_spelling(word) for word in names])


def _telling_parts(names: list[str]) -> set[str]:
    """Words and numbers of a name that are found alone."""
    words = {_spelling(word) for word in names if len(word) >= _MIN_NAME_LETTERS and word.isalpha()}
    return words | {each for each in _tokens(names) if len(each) >= _MIN_NAME_LETTERS and each.isdecimal()}


def _words(text: str) -> list[str]:
    """Letters and digits, without accents; "MuellerHans" is two words."""
    letters = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    plain = unicodedata.normalize("NFC", "".join(each for each in letters if not unicodedata.combining(each)))
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    return re.findall(r"[^\W_]+", split.casefold())


def _tokens(words: list[str]) -> list[str]:
    """The words, cut where digits begin and end."""
    return [_spelling(part) for word in words for part in re.findall(r"\d+|\D+", word)]


def _spelling(word: str) -> str:
    """One for all ways to spell a name or a number."""
    return re.sub(r"([aou])e|(a)a", r"\1\2", word.lstrip("0") or "0")


def _holds(words: list[str], names: list[str]) -> bool:
    return any(words[start : start + len(names)] == names for start in range(len(words))) if names else False


def _to_frame(digits: str) -> int:
    if not digits.isdecimal() or len(digits) > _MAX_DIGITS:
        raise Rejected(NAME_MISMATCH, "In the path, group `frame` of `patient_pattern` is no whole number.")
    return int(digits)
