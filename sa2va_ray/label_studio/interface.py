"""A project's labelling interface, which is XML."""

from xml.etree import ElementTree


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
