"""Which presentation contexts are accepted, and in which transfer syntax."""

from __future__ import annotations

import struct

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)
from pynetdicom.pdu import A_ASSOCIATE_AC

from airlock_edge.negotiation import COMMITMENT, VERIFICATION, Negotiator, Proposal, find_calling
from airlock_edge.pdus import ProtocolError
from airlock_edge.settings import load_settings
from tests.fuzz.messages import CT, context, item, request, user_information
from tests.servers.edge import CALLER, TITLE, write_settings

PRIVATE = "1.2.3.4.5"


@pytest.fixture
def negotiator(tmp_path):
    path = write_settings(tmp_path, "http://127.0.0.1:9", private_transfer_syntaxes=[PRIVATE])
    return Negotiator(load_settings(path), commits=True)


@pytest.fixture
def accept(negotiator):
    """Return what gives the accepted transfer syntax of a class, None for none."""

    def accept(uid: str, *syntaxes: str) -> str | None:
        encoded = request(CALLER, TITLE, context(1, uid, *syntaxes), user_information())
        accepted, _ = negotiator.negotiate(Proposal(encoded))
        return accepted[1].transfer_syntax if accepted else None

    return accept


def test_storage_takes_the_peers_first_transfer_syntax(accept):
    assert accept(CT, JPEG2000Lossless, ExplicitVRLittleEndian) == JPEG2000Lossless
    assert accept(CT, PRIVATE) == PRIVATE
    assert accept(CT, "1.2.3.4.6") is None


def test_explicit_vr_is_preferred_to_implicit(accept):
    assert accept(CT, ImplicitVRLittleEndian, JPEGBaseline8Bit, ExplicitVRLittleEndian) == ExplicitVRLittleEndian


@pytest.mark.parametrize("uid", [COMMITMENT, VERIFICATION])
def test_other_services_take_no_data_set_that_could_be_inflated(accept, uid):
    assert accept(uid, DeflatedExplicitVRLittleEndian) is None
    assert accept(uid, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian) == ImplicitVRLittleEndian


@pytest.mark.parametrize("number", ["200.4", "201.2", "201.6"])
def test_a_query_among_the_classes_of_storage_is_not_accepted(accept, number):
    assert accept(f"1.2.840.10008.5.1.4.1.1.{number}", ExplicitVRLittleEndian) is None


@pytest.mark.parametrize("number", ["40", "999.9"])
def test_storage_classes_without_a_name_are_accepted(accept, number):
    assert accept(f"1.2.840.10008.5.1.4.1.1.{number}", ExplicitVRLittleEndian) == ExplicitVRLittleEndian


@pytest.mark.parametrize(
    "more",
    [
        item(0x5A, b"of a later edition"),
        item(0xF0, b""),
        item(0x55, b"A_VERSION_OF_MORE_THAN_16"),
        item(0x55, b"VERSION\0"),
        item(0x55, "M\u00fcnchen".encode("latin-1")),
        item(0x58, bytes((6, 0, 0, 1)) + b"x" + bytes(2)),
    ],
)
def test_user_information_that_the_edge_does_not_use_is_ignored(more):
    proposal = Proposal(request(CALLER, TITLE, context(1), user_information(4096, more)))
    assert proposal.most_bytes == 4096
    assert [context.context_id for context in proposal.contexts] == [1]


def test_items_of_unknown_types_are_ignored():
    syntaxes = item(0x30, CT.encode()) + item(0x41, b"x") + item(0x40, ExplicitVRLittleEndian.encode())
    contexts = item(0x20, bytes((1, 0, 0, 0)) + syntaxes)
    proposal = Proposal(request(CALLER, TITLE, item(0x60, b"x"), contexts, user_information()))
    assert [context.abstract_syntax for context in proposal.contexts] == [CT]


def test_an_item_that_is_longer_than_the_rest_is_refused():
    with pytest.raises(ProtocolError, match="cannot be read"):
        Proposal(request(CALLER, TITLE, context(1), user_information(4096, item(0x5A, b"x", length=9))))


@pytest.mark.parametrize("rest", ["\0" * 8, "\0 of old\0"])
def test_an_ae_title_ends_at_a_nul(rest):
    encoded = request(f"CT1{rest}", f"EDGE{rest}", context(1), user_information())
    proposal = Proposal(encoded)
    assert (proposal.calling, proposal.called, find_calling(encoded)) == ("CT1", "EDGE", "CT1")


@pytest.mark.parametrize("scu", [0, 1])
@pytest.mark.parametrize("scp", [0, 1])
def test_the_edge_stays_the_only_scp_whatever_roles_are_asked_for(negotiator, scu, scp):
    role = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + bytes((scu, scp)))
    accepted, encoded = negotiator.negotiate(Proposal(request(CALLER, TITLE, context(1), user_information(0, role))))
    answer = A_ASSOCIATE_AC()
    answer.decode(encoded)
    assert list(accepted) == [1]
    roles = answer.user_information.role_selection.values()
    assert [(one.scu_role, one.scp_role) for one in roles] == [(1, 0)] * scu
