"""A C-CDA document: the fields of its header, and whether the rest is well-formed XML.

No entity is expanded and nothing is fetched: reading stops where a document type declaration begins.
Sources: HL7 CDA R2 (POCD_HD000040, header), HL7 C-CDA R2.1 (US Realm Header), XML 1.0, RFC 1952.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.parsers.expat import errors as expat
from xml.sax import ContentHandler, SAXParseException

from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import create_parser

from airlock.reasons import Reason
from airlock.storage.lines import BrokenGzipError, unpack

if TYPE_CHECKING:
    from xml.sax.xmlreader import AttributesNSImpl

GZIP = b"\x1f\x8b"
NAMESPACE = "urn:hl7-org:v3"
C_CDA_TEMPLATES = "2.16.840.1.113883.10.20.22."

_HEADER_DEPTH = 2  # children of ClinicalDocument
_EXPECTED = {"effectiveTime": _HEADER_DEPTH, "recordTarget": _HEADER_DEPTH, "structuredBody": _HEADER_DEPTH + 1}
_MOST_VALUES = 100  # per header element, so that a hostile header does not fill the memory
_PIECE_BYTES = 1024**2  # bytes
_CUT_OFF_CODES = {
    expat.codes[text]
    for text in (
        expat.XML_ERROR_NO_ELEMENTS,
        expat.XML_ERROR_UNCLOSED_TOKEN,
        expat.XML_ERROR_UNCLOSED_CDATA_SECTION,
        expat.XML_ERROR_PARTIAL_CHAR,
    )
}


class DocumentError(Exception):
    """An object is not a C-CDA document that may be converted.

    Parameters
    ----------
    reason
        The arrival's reason code.
    detail
        A short explanation; it never contains a value of the document or a key.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


@dataclass(frozen=True)
class Document:
    """The fields of a document's header.

    Parameters
    ----------
    document_id
        ClinicalDocument.id: its root, and after ``|`` its extension where it has one.
    template_ids
        ClinicalDocument.templateId in the same form, in order.
    code
        ClinicalDocument.code, the LOINC code of the kind of document; None without one.
    problems
        Parts of header or body that C-CDA requires and that are missing; none of them stops the document.
    size
        Bytes of the unpacked document.
    is_gzip
        Whether the object is packed. AWS does not document packed input, so normalize unpacks it.
    """

    document_id: str
    template_ids: tuple[str, ...]
    code: str | None
    problems: tuple[str, ...]
    size: int
    is_gzip: bool


def read_document(body: bytes, limit: int) -> Document:
    """Return the document in an object's bytes, gzip or not; memory does not grow with a gzip stream's content.

    Parameters
    ----------
    body
        The whole object.
    limit
        The most bytes of the document, both as stored and unpacked.

    Raises
    ------
    DocumentError
        If the document cannot be converted, with the reason.
    """
    if not body:
        raise DocumentError(Reason.EMPTY_OBJECT)
    if len(body) > limit:
        raise DocumentError(Reason.FILE_TOO_LARGE, f"more than {limit} bytes")
    header = _Header()
    try:
        size = _parse_xml(body, limit, header)
    except BrokenGzipError as error:
        raise DocumentError(Reason.UNREADABLE, str(error)) from None
    except DefusedXmlException:
        raise DocumentError(Reason.XML_ENTITY, "a document type declaration") from None
    except SAXParseException as error:
        raise _explain_syntax_error(error, header) from None
    except (LookupError, ValueError):
        raise DocumentError(Reason.NOT_XML, "the declared encoding is unknown or is not the document's") from None
    return header.make_document(size, is_gzip=body.startswith(GZIP))


def _parse_xml(body: bytes, limit: int, header: _Header) -> int:
    parser = create_parser(namespaceHandling=1, forbid_dtd=True)
    parser.setContentHandler(header)
    size = 0
    for piece in unpack(body[start : start + _PIECE_BYTES] for start in range(0, len(body), _PIECE_BYTES)):
        size += len(piece)
        if size > limit:
            raise DocumentError(Reason.FILE_TOO_LARGE, f"more than {limit} bytes when unpacked")
        parser.feed(piece)
    if not size:
        raise DocumentError(Reason.EMPTY_OBJECT, "nothing is in the gzip stream")
    parser.close()
    return size


def _explain_syntax_error(error: SAXParseException, header: _Header) -> DocumentError:
    """Return the error of a document that was cut off, or of one that is not XML."""
    code = getattr(error.getException(), "code", None)
    if header.is_open and code in _CUT_OFF_CODES:
        return DocumentError(Reason.TRUNCATED, "the document ends inside an element")
    return DocumentError(Reason.NOT_XML, f"line {error.getLineNumber()}")


@dataclass
class _Header(ContentHandler):
    """A SAX handler that keeps only a few attributes of the header."""

    depth: int = 0
    ids: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        ContentHandler.__init__(self)

    @property
    def is_open(self) -> bool:
        return self.depth > 0

    def startElementNS(  # noqa: N802 - named by xml.sax
        self, name: tuple[str | None, str], _qname: Any, attributes: AttributesNSImpl
    ) -> None:
        self.depth += 1
        if self.depth == 1 and name != (NAMESPACE, "ClinicalDocument"):
            raise DocumentError(Reason.NOT_CCDA, f"the root is not a ClinicalDocument in the namespace {NAMESPACE}")
        if name[0] != NAMESPACE:
            return
        if self.depth == _EXPECTED.get(name[1]):
            self.seen.add(name[1])
        elif self.depth == _HEADER_DEPTH:
            self._note_value(name[1], {local: value for (space, local), value in attributes.items() if space is None})

    def endElementNS(self, _name: tuple[str | None, str], _qname: Any) -> None:  # noqa: N802 - named by xml.sax
        self.depth -= 1

    def _note_value(self, name: str, attributes: dict[str, str]) -> None:
        identified = "|".join(filter(None, (attributes.get("root"), attributes.get("extension"))))
        known = {"id": self.ids, "templateId": self.templates, "code": self.codes}.get(name)
        value = attributes.get("code") if name == "code" else identified if attributes.get("root") else None
        if known is not None and value and len(known) < _MOST_VALUES:
            known.append(value)

    def make_document(self, size: int, *, is_gzip: bool) -> Document:
        if not self.ids:
            raise DocumentError(Reason.DOCUMENT_WITHOUT_ID)
        code = next(iter(self.codes), None)
        return Document(self.ids[0], tuple(self.templates), code, tuple(self._find_problems()), size, is_gzip)

    def _find_problems(self) -> list[str]:
        found = {
            "no templateId of C-CDA": not any(name.startswith(C_CDA_TEMPLATES) for name in self.templates),
            "no code": not self.codes,
            "no effectiveTime": "effectiveTime" not in self.seen,
            "no recordTarget": "recordTarget" not in self.seen,
            "no structuredBody, so that little can be converted": "structuredBody" not in self.seen,
        }
        return [problem for problem, is_there in found.items() if is_there]
