"""C-CDA documents of the input, read without loading, expanding or following anything."""

from __future__ import annotations

import re
from xml.parsers import expat

ROOT = "urn:hl7-org:v3 ClinicalDocument"
MOST_ELEMENTS = 250_000
"""ccda-to-fhir needs up to 2.5 kB of memory for an empty element; the summary of a lifetime has some 50,000."""
DECLARATION = re.compile(r"\s*<\?xml\s.*?\?>", re.DOTALL)


class UnconvertibleError(Exception):
    """A document that cannot be converted.

    Parameters
    ----------
    message : str
        One sentence for the error file; never holds a value of the document.
    """


class _Reader:
    """Walks through a document once, building nothing; refuses a DTD where it begins."""

    def __init__(self) -> None:
        self.root = ""
        self.elements = 0
        self.encoding = "utf-8"
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.XmlDeclHandler = self._declaration
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start

    def read(self, body: bytes) -> None:
        self._parser.Parse(body, True)

    def _declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        self.encoding = encoding or self.encoding

    def _doctype(self, *_: object) -> None:
        raise UnconvertibleError("The document declares a DTD, which could define entities; remove it.")

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self.root = self.root or name
        if self.root != ROOT:
            raise UnconvertibleError("The document is not a ClinicalDocument in the namespace urn:hl7-org:v3.")
        self.elements += 1
        if self.elements > MOST_ELEMENTS:
            raise UnconvertibleError(f"The document has more than {MOST_ELEMENTS} elements.")


def document_text(body: bytes) -> str:
    """Return a C-CDA document as text without XML declaration, once it is known to be harmless.

    Raises
    ------
    UnconvertibleError
        Not well-formed XML, a DTD, too many elements, or another kind of document.
    """
    reader = _Reader()
    try:
        reader.read(body)
        text = body.decode(reader.encoding).removeprefix("\ufeff")
    except expat.ExpatError as error:
        raise UnconvertibleError(f"The document is not well-formed XML: line {error.lineno}.") from error
    except (LookupError, ValueError) as error:
        raise UnconvertibleError("The document is not in the encoding that it declares.") from error
    return DECLARATION.sub("", text, count=1)
