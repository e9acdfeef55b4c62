"""Which presentation contexts are accepted, and in which transfer syntax."""

from __future__ import annotations

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from airlock_edge.negotiation import COMMITMENT, VERIFICATION, Negotiator, Proposal
from airlock_edge.settings import load_settings
from tests.fuzz.messages import CT, context, request, user_information
from tests.servers.edge import CALLER, TITLE, write_settings

PRIVATE = "1.2.3.4.5"


@pytest.fixture
def accept(tmp_path):
    """Return what gives the accepted transfer syntax of a class, None for none."""
    path = write_settings(tmp_path, "http://127.0.0.1:9", private_transfer_syntaxes=[PRIVATE])
    negotiator = Negotiator(load_settings(path), commits=True)

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
