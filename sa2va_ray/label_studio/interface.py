"""A project's labelling interface, which is XML."""

from dataclasses import dataclass
from xml.etree import ElementTree

CURE = 'It wants <Image name="image" value="$image"/> and <BrushLabels name="tag" toName="image"> with a <Label/>.'


@dataclass(frozen=True)
class LabelConfig:
    """What a project's labelling interface says of brush masks.

    Attributes:
        from_name, to_name: of its BrushLabels tag and of the Image tag that it marks.
        data_key: of a task's data, where its image is.
        labels: values of the labels, in order.
    """

    from_name: str
    to_name: str
    data_key: str
    labels: tuple[str, ...]


def read_label_config(text: str) -> LabelConfig:
    """The first BrushLabels tag of a labelling interface.

    Raises:
        ValueError: not XML, with a DTD, or without BrushLabels for an Image; `CURE` is what it wants.
    """
    root = parse_interface(text)
    brush = next((tag for tag in root.iter("BrushLabels") if tag.get("name") and tag.get("toName")), None)
    if brush is None:
        raise ValueError("It has no BrushLabels tag with name and toName.")
    key = data_key(next((tag for tag in root.iter("Image") if tag.get("name") == brush.get("toName")), None))
    if not key:
        raise ValueError("BrushLabels belongs to no Image tag with a value such as $image.")
    labels = tuple(label.get("value", "") for label in brush.iter("Label"))
    if not labels or not all(labels):
        raise ValueError("BrushLabels has no Label tag, or one without a value.")
    return LabelConfig(brush.attrib["name"], brush.attrib["toName"], key, labels)


def parse_interface(text: str) -> ElementTree.Element:
    """
    Raises:
        ValueError: not XML, or with a DTD.
    """
    # Entities, which can make a few bytes into gigabytes or read files, come from a DTD only.
    if "<!DOCTYPE" in text:
        raise ValueError("It has a DTD, which none needs.")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        raise ValueError("It is not XML.") from None


def data_key(tag: ElementTree.Element | None) -> str:
    """The field of a task's data that a tag shows: of `$image` it is `image`; empty where it shows none."""
    value = "" if tag is None else tag.get("value", "")
    return value[1:] if value.startswith("$") else ""
