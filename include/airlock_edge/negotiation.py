"""Negotiation of an association: what a peer asks for, and which presentation contexts the edge accepts.

The PDUs are pynetdicom's. Its choice of a transfer syntax is not: it takes the first of its own list, and the edge the
first of the peer's, which is the one that the peer need not convert to (PS3.8 section 9.3.3.2 leaves the choice open).
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext

from airlock_edge.pdus import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from airlock_edge.settings import Edge

# The libraries quote values of the peer in their messages, which may be identifiers.
for _name in ("pynetdicom", "pydicom"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False

VERIFICATION = "1.2.840.10008.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_CLASS = "2.25.167916737154571589735698620681394296011"
IMPLEMENTATION_VERSION = "AIRLOCK_EDGE_1"

_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."  # retired classes too, which old archives hold, and those of later editions
_SYNTAX_ROOT = "1.2.840.10008.1.2"
# Of services that read the data set: a deflated one could be inflated to any size.
_PLAIN_SYNTAXES = {str(uid) for uid in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)}
# Commitment, the DICOMDIR of media, and queries with UIDs below the root of storage, such as Inventory - FIND.
_NOT_STORAGE = {COMMITMENT, "1.2.840.10008.1.20.2", "1.2.840.10008.1.3.10"} | {
    uid
    for uid, (name, *_) in UID_dictionary.items()
    if uid.startswith(_STORAGE_ROOT) and name and "Storage" not in name
}
_STORAGE_CLASSES = {str(context.abstract_syntax) for context in AllStoragePresentationContexts} | {
    uid for uid, (name, kind, *_) in UID_dictionary.items() if kind == "SOP Class" and "Storage" in name
} - _NOT_STORAGE
_LEAST_PDU = 64  # bytes that a peer must take at a time; no real one takes less than 4 KiB
_ITEM = struct.Struct(">BxH")  # type and length of an item of a request
_CALLED, _CALLING, _ITEMS = 10, 26, 74  # where the AE titles and the items of a request begin (PS3.8 table 9-11)
_APPLICATION_ITEM, _CONTEXT_ITEM, _USER_ITEM = 0x10, 0x20, 0x50
_SYNTAX_ITEMS = {0x30, 0x40}  # of a context: abstract and transfer syntaxes
_USED_USER_ITEMS = {0x51, 0x54}  # the maximum length and the roles
_ACCEPTED, _CLASS_UNKNOWN, _SYNTAXES_UNKNOWN = 0, 3, 4  # results of a context (PS3.8 table 9-18)


@dataclass(frozen=True)
class Rejection:
    """Why an association is refused (PS3.8 table 9-21).

    Attributes
    ----------
    text
        For the log and the metrics: lower case words.
    result
        1 for ever, 2 for now.
    source, diagnostic
        As the table has them.
    """

    text: str
    result: int
    source: int
    diagnostic: int

    def encode(self) -> bytes:
        """Return the A-ASSOCIATE-RJ."""
        primitive = A_ASSOCIATE()
        primitive.result, primitive.result_source, primitive.diagnostic = self.result, self.source, self.diagnostic
        pdu = A_ASSOCIATE_RJ()
        pdu.from_primitive(primitive)
        return pdu.encode()


UNKNOWN_CALLING = Rejection("calling AE title not known", 1, 1, 3)
UNKNOWN_ADDRESS = Rejection("address not allowed for the AE title", 1, 1, 3)
UNKNOWN_CERTIFICATE = Rejection("certificate not of the AE title", 1, 1, 3)
UNKNOWN_CALLED = Rejection("called AE title not known", 1, 1, 7)
UNKNOWN_APPLICATION = Rejection("application context not known", 1, 1, 2)
TOO_MANY = Rejection("too many associations", 2, 3, 2)
TOO_MANY_OF_PEER = Rejection("too many associations of the AE title", 2, 3, 2)


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


class Proposal:
    """An A-ASSOCIATE-RQ.

    Parameters
    ----------
    encoded
        The whole PDU.

    Raises
    ------
    ProtocolError
        If it is not one, or contradicts itself.
    """

    def __init__(self, encoded: bytes) -> None:
        try:
            pdu = A_ASSOCIATE_RQ()
            pdu.decode(_drop_unused_items(encoded))
            self._primitive: Any = pdu.to_primitive()
            self.calling = str(self._primitive.calling_ae_title).strip()
            self.called = str(self._primitive.called_ae_title).strip()
            self.most_bytes = int(self._primitive.maximum_length_received or 0)  # of a PDU that the peer takes
        except Exception as error:  # noqa: BLE001 - whatever a decoder of foreign bytes raises; its text may quote them
            raise ProtocolError(f"the association request cannot be read ({type(error).__name__})") from None
        self._check()

    def _check(self) -> None:
        contexts = self.contexts
        if len({context.context_id for context in contexts}) < len(contexts):
            raise ProtocolError("the association request has two presentation contexts with the same id")
        if not all(context.abstract_syntax and context.transfer_syntax for context in contexts):
            raise ProtocolError("a presentation context has no abstract syntax or no transfer syntax")
        if 0 < self.most_bytes < _LEAST_PDU:
            raise ProtocolError(f"the peer takes PDUs of {self.most_bytes} bytes only, less than a response")

    @property
    def application_context(self) -> str:
        """The UID of the application context."""
        return str(self._primitive.application_context_name)

    @property
    def contexts(self) -> list[Any]:
        """The proposed presentation contexts."""
        return list(self._primitive.presentation_context_definition_list)

    @property
    def roles(self) -> list[Any]:
        """The proposed role selections."""
        items = self._primitive.user_information
        return [item for item in items if isinstance(item, SCP_SCU_RoleSelectionNegotiation)]


def find_calling(encoded: bytes) -> str:
    """Return the calling AE title of an A-ASSOCIATE-RQ without decoding the rest (PS3.8 table 9-11)."""
    return _read_title(encoded, _CALLING).decode("ascii", "replace").strip()


def _drop_unused_items(encoded: bytes) -> bytes:
    """Return an A-ASSOCIATE-RQ with only the items that the edge uses, for pynetdicom to decode.

    The edge must ignore items of unknown types (PS3.8 section 9.3.1). pynetdicom refuses them, and an implementation
    version name that is too long. The edge uses none of the items left out, such as user identity.

    Raises
    ------
    ValueError, struct.error
        If the lengths contradict each other.
    """
    items = []
    for kind, content in _list_items(encoded[_ITEMS:]):
        if kind == _APPLICATION_ITEM:
            items.append(_encode_item(kind, content))
        elif kind == _CONTEXT_ITEM:
            items.append(_encode_item(kind, content[:4] + _select_items(content[4:], _SYNTAX_ITEMS)))
        elif kind == _USER_ITEM:
            items.append(_encode_item(kind, _select_items(content, _USED_USER_ITEMS)))
    titles = _read_title(encoded, _CALLED) + _read_title(encoded, _CALLING)
    content = encoded[6:_CALLED] + titles + encoded[_CALLING + 16 : _ITEMS] + b"".join(items)
    return encoded[:2] + len(content).to_bytes(4, "big") + content


def _read_title(encoded: bytes, first: int) -> bytes:
    """Return an AE title as 16 bytes filled with spaces; old devices end it with a NUL and leave bytes behind it."""
    return encoded[first : first + 16].partition(b"\0")[0].ljust(16)


def _list_items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each item.

    Raises
    ------
    ValueError, struct.error
        If an item is longer than the bytes that are left.
    """
    first = 0
    while first < len(encoded):
        kind, length = _ITEM.unpack_from(encoded, first)
        first += _ITEM.size
        if length > len(encoded) - first:
            raise ValueError("an item is longer than the rest")
        yield kind, encoded[first : first + length]
        first += length


def _select_items(encoded: bytes, kinds: Collection[int]) -> bytes:
    return b"".join(_encode_item(kind, content) for kind, content in _list_items(encoded) if kind in kinds)


def _encode_item(kind: int, content: bytes) -> bytes:
    return _ITEM.pack(kind, len(content)) + content


class Negotiator:
    """Accepts presentation contexts.

    Parameters
    ----------
    settings
        Of the edge; its private classes and transfer syntaxes are accepted, too.
    commits
        Whether Storage Commitment is offered.
    """

    def __init__(self, settings: Edge, *, commits: bool) -> None:
        self._most_bytes = settings.listen.pdu_kib * 1024
        self._private_syntaxes = frozenset(settings.private_transfer_syntaxes)
        self._services = {VERIFICATION} | ({COMMITMENT} if commits else set())
        self._storage = _STORAGE_CLASSES | set(settings.private_classes)

    def is_storage(self, uid: str) -> bool:
        """Return whether a SOP class is stored."""
        return uid in self._storage or (uid.startswith(_STORAGE_ROOT) and uid not in _NOT_STORAGE)

    def negotiate(self, proposal: Proposal) -> tuple[dict[int, Context], bytes]:
        """Return the accepted contexts by id, and the A-ASSOCIATE-AC."""
        results = [self._decide(context) for context in proposal.contexts]
        accepted = {
            one.context_id: Context(str(one.abstract_syntax), str(one.transfer_syntax[0]))
            for one in results
            if one.result == _ACCEPTED and one.context_id is not None
        }
        return accepted, self._encode(proposal, results)

    def _decide(self, asked: Any) -> PresentationContext:
        result = PresentationContext()
        result.context_id, result.abstract_syntax = asked.context_id, asked.abstract_syntax
        offered = [str(uid) for uid in asked.transfer_syntax]
        is_storage = self.is_storage(str(asked.abstract_syntax))
        known = [uid for uid in offered if (self._takes(uid) if is_storage else uid in _PLAIN_SYNTAXES)]
        if not (is_storage or asked.abstract_syntax in self._services):
            result.result = _CLASS_UNKNOWN
        else:
            result.result = _ACCEPTED if known else _SYNTAXES_UNKNOWN
        result.transfer_syntax = [UID(_prefer_explicit(known) if known else offered[0])]
        return result

    def _takes(self, transfer_syntax: str) -> bool:
        return transfer_syntax.startswith(_SYNTAX_ROOT) or transfer_syntax in self._private_syntaxes

    def _encode(self, proposal: Proposal, results: list[PresentationContext]) -> bytes:
        primitive = A_ASSOCIATE()
        primitive.application_context_name = UID(APPLICATION_CONTEXT)
        primitive.calling_ae_title, primitive.called_ae_title = proposal.calling, proposal.called
        primitive.result, primitive.result_source = 0, 1
        primitive.presentation_context_definition_results_list = results
        roles = [_answer_role(asked) for asked in proposal.roles if asked.scu_role]
        primitive.user_information = [*self._introduce(), *roles]
        pdu = A_ASSOCIATE_AC()
        pdu.from_primitive(primitive)
        return pdu.encode()

    def _introduce(self) -> list[Any]:
        most, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
        most.maximum_length_received = self._most_bytes
        implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS)
        version = ImplementationVersionNameNotification()
        version.implementation_version_name = IMPLEMENTATION_VERSION
        return [most, implementation, version]


def _prefer_explicit(known: list[str]) -> str:
    """Return the peer's first transfer syntax; explicit in place of implicit VR, which loses private VRs."""
    if known[0] == ImplicitVRLittleEndian and ExplicitVRLittleEndian in known:
        return str(ExplicitVRLittleEndian)
    return known[0]


def _answer_role(asked: Any) -> SCP_SCU_RoleSelectionNegotiation:
    """Return the answer to a role selection that asks for SCU: the peer may be SCU, and the edge stays the only SCP.

    A role selection for SCP alone gets no answer. The default roles then apply, which are the same (PS3.7 annex
    D.3.3.4).
    """
    answer = SCP_SCU_RoleSelectionNegotiation()
    answer.sop_class_uid, answer.scu_role, answer.scp_role = asked.sop_class_uid, True, False
    return answer
