"""The XHTML of a narrative: invariants txt-1 and txt-2 (https://hl7.org/fhir/R4/narrative.html#xhtml)."""

from __future__ import annotations

from xml.parsers import expat

XHTML = "http://www.w3.org/1999/xhtml"
# Chapters 7-11 (except section 4 of chapter 9) and 15 of HTML 4.0, <a>, and images.
ELEMENTS = frozenset(
    {"a", "abbr", "acronym", "address", "area", "b", "bdo", "big", "blockquote", "br", "caption", "cite", "code", "col"}
    | {"colgroup", "dd", "dfn", "div", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "kbd"}
    | {"li", "map", "ol", "p", "pre", "q", "samp", "small", "span", "strong", "style", "sub", "sup", "table", "tbody"}
    | {"td", "tfoot", "th", "thead", "tr", "tt", "ul", "var"}
)


class _NotAllowedError(Exception):
    """The parser met something that a narrative does not allow."""


class _Narrative:
    """Listens to the parser, and records whether the narrative has any content."""

    def __init__(self) -> None:
        self.says_something = False
        self._depth = 0

    def doctype(self, *_: object) -> None:
        """Refuse a document type: a narrative has no entities of its own."""
        raise _NotAllowedError("must have no document type")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Check one element; names come as ``namespace name``."""
        namespace, _, tag = name.rpartition(" ")
        if namespace != XHTML or (not self._depth and tag != "div"):
            raise _NotAllowedError(f'must be <div xmlns="{XHTML}">')
        if tag not in ELEMENTS or any(key.lower().startswith("on") for key in attributes):
            raise _NotAllowedError(
                "must hold basic HTML formatting only: no scripts, forms, frames or event attributes (txt-1)"
            )
        self.says_something |= tag == "img"
        self._depth += 1

    def text(self, content: str) -> None:
        """Keep whether there is text."""
        self.says_something |= not content.isspace()


def find_narrative_fault(value: str) -> str | None:
    """Return the fault of a narrative's ``div``, None if it has none."""
    narrative = _Narrative()
    parser = expat.ParserCreate("utf-8", " ")
    parser.StartDoctypeDeclHandler = narrative.doctype
    parser.StartElementHandler = narrative.start
    parser.CharacterDataHandler = narrative.text
    try:
        parser.Parse(value.encode("utf-8"), True)
    except _NotAllowedError as refused:
        return str(refused)
    except (expat.ExpatError, UnicodeEncodeError):
        return "must be well-formed XHTML"
    return None if narrative.says_something else "must have some content (txt-2)"
