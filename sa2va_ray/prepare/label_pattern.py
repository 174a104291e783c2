"""`label_pattern`: how the path of a label follows from the path of its image."""

import posixpath
import re
from dataclasses import dataclass, field
from functools import cached_property

from sa2va_ray.patterns import PathPattern

LABEL_PATTERN_AS_TYPED = """'label_pattern="masks/{stem}_vessel.png"'"""
"""An example, in a shell's quotes and within them YAML's, which would read the braces."""
_ARROW = "->"
_ANY_IMAGE = "{folder}/{stem}"
_PART = re.compile(r"\{(\w+)\}/?|\*")
_ALWAYS = ("folder", "parent", "stem")
_EXAMPLE = {"folder": "p7/images", "parent": "p7", "stem": "im7"}


@dataclass(frozen=True)
class LabelPattern:
    """`LABEL`, or `IMAGE -> LABEL`: paths below the source with parts in braces.

    Without an image side any image may have a label, and there are three parts: `{folder}` of the image, `{parent}`,
    the folder above that, and `{stem}`, its name without suffix. On an image side `{folder}` stands for any folders,
    `{stem}` for as many letters of a name as fit, another part for as few, `*` for any.

    Raises:
        ValueError: what is wrong with the text.
    """

    text: str
    image_side: str = field(init=False)
    label_side: str = field(init=False)

    def __post_init__(self) -> None:
        sides = [side.strip() for side in self.text.split(_ARROW)]
        if len(sides) > 2 or not all(sides):
            raise ValueError(f"is neither LABEL nor IMAGE {_ARROW} LABEL")
        object.__setattr__(self, "image_side", sides[0] if len(sides) == 2 else "")
        object.__setattr__(self, "label_side", sides[-1])
        if wrong := [part for side in sides for part in _parts(side) if not part.isidentifier()]:
            raise ValueError(f"has the part {{{wrong[0]}}}, whose name has to begin with a letter")
        known = _parts(self.image_side) if self.image_side else list(_ALWAYS)
        for side in sides:
            if re.search(r"[{}]", _PART.sub("", side)):
                raise ValueError("has a brace that belongs to no {part}; a part is letters, digits and _")
        if "*" in self.label_side:
            raise ValueError("has * on the side of the label, of which there must be one for each image")
        if unknown := [part for part in _parts(self.label_side) if part not in known]:
            raise ValueError(f"has the part {{{unknown[0]}}}, and of an image are known {_in_braces(known)}")
        if not _parts(self.label_side):
            raise ValueError(f"names one label for all images; put a part into it: {_in_braces(known)}")

    def label_of(self, image: str) -> str | None:
        """Path of the label of an image below the source; None: the image does not fit the image side.

        Raises:
            UserError: whether it fits is not found out in a bounded time.
        """
        if self.image_side:
            parts = self._image.match(image)
            return None if parts is None else _formatted(self.label_side, {"folder": "", **parts})
        folder, _, file = image.rpartition("/")
        parts = {"folder": folder, "parent": posixpath.dirname(folder), "stem": posixpath.splitext(file)[0]}
        return _formatted(self.label_side, parts)

    @property
    def example(self) -> tuple[str, str]:
        """The path of an image that is made up, and of its label."""
        side = self.image_side or f"{_ANY_IMAGE}.png"
        parts = {part: _EXAMPLE.get(part, "7") for part in [*_parts(side), *_ALWAYS]}
        return _formatted(side.replace("*", "x"), parts), _formatted(self.label_side, parts)

    @cached_property
    def _image(self) -> PathPattern:
        pattern, position, seen = "", 0, set()
        for part in _PART.finditer(self.image_side):
            pattern += re.escape(self.image_side[position : part.start()])
            pattern += _regex(part, part[1] in seen)
            seen.add(part[1])
            position = part.end()
        return PathPattern(f"(?s:{pattern}{re.escape(self.image_side[position:])})", "label_pattern")


def _regex(part: re.Match[str], is_again: bool) -> str:
    """Of a part of the image side, with the / behind it."""
    name, slash = part[1], part[0].endswith("/")
    if name is None:
        return "[^/]*"
    if is_again:
        return f"(?P={name})" + "/" * slash
    if name == "folder":
        return f"(?:(?P<{name}>.*)/)?" if slash else f"(?P<{name}>.*)"
    # The name without suffix, also where it has dots, as `{stem}.*` says.
    letters = "[^/]+" if name == "stem" else "[^/]+?"
    return f"(?P<{name}>{letters})" + "/" * slash


def _parts(side: str) -> list[str]:
    return [name for name in _PART.findall(side) if name]


def _in_braces(parts: list[str]) -> str:
    return ", ".join(f"{{{part}}}" for part in parts) or "no parts"


def _formatted(side: str, parts: dict[str, str]) -> str:
    path = re.sub(r"\{(\w+)\}", lambda part: parts[part[1]], side)
    return posixpath.normpath(path.lstrip("/"))
