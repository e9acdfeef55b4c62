"""Encrypted associations: peers of the right authority only, by the BCP 195 profile, and no other."""

from __future__ import annotations

import ssl
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from airlock_edge import association
from airlock_edge.commitment.reactor import guard_responses
from tests.dicom_files import ct
from tests.servers.certificates import Authority
from tests.servers.edge import CALLER, TITLE, data_set_of, edge
from tests.servers.raw_peer import raw_peer
from tests.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock_edge.node import Node
    from tests.servers.certificates import Files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder) -> Authority:
    return Authority(folder, "hospital")


@pytest.fixture(scope="module")
def node(folder, authority, endpoint, tmp_path_factory) -> Iterator[Node]:
    own = authority.issue("edge")
    tls = {"certificate": own.certificate, "key": own.key, "client_authorities": authority.certificate}
    listen = {"address": "127.0.0.1", "port": 0, "tls": {name: str(path) for name, path in tls.items()}}
    with edge(tmp_path_factory.mktemp("edge"), endpoint, listen=listen) as running:
        yield running


def context(authority: Authority, own: Files | None, **attributes: Any) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(authority.certificate))
    if own is not None:
        found.load_cert_chain(own.certificate, own.key)
    for name, value in attributes.items():
        setattr(found, name, value)
    return found


def echoes(node: Node, tls: ssl.SSLContext) -> bool:
    ae = AE(CALLER)
    ae.add_requested_context(Verification)
    ae.acse_timeout = ae.network_timeout = PATIENCE
    made = ae.associate("127.0.0.1", node.port, ae_title=TITLE, tls_args=(tls, "127.0.0.1"))
    if not made.is_established:
        return False
    guard_responses(made)
    succeeded = bool(made.send_c_echo().Status == 0)
    made.release()
    return succeeded


def test_storescu_with_its_default_profile_is_a_peer(node, authority, objects, tmp_path):
    (tmp_path / "a.dcm").write_bytes(ct())
    own = authority.issue("modality")
    tls = ["+tls", own.key, own.certificate, "+cf", authority.certificate]
    command = ["storescu", *tls, "-aet", CALLER, "-aec", TITLE, "127.0.0.1", str(node.port), tmp_path / "a.dcm"]
    subprocess.run(command, check=True, timeout=60)
    assert [data_set_of(body) for body in objects.bodies().values()] == [data_set_of(ct())]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_peer_of_the_authority_is_accepted(node, authority, version):
    assert echoes(
        node, context(authority, authority.issue("modality"), minimum_version=version, maximum_version=version)
    )


def test_a_peer_without_a_certificate_is_not(node, authority):
    assert not echoes(node, context(authority, None))


def test_the_log_has_the_address_and_the_reason_of_a_failed_handshake(node, authority, caplog):
    assert not echoes(node, context(authority, None))
    until("it is logged", lambda: "127.0.0.1 ended: TLS failed (peer did not return a certificate)" in caplog.text)


def test_a_peer_of_another_authority_is_not(node, authority, folder):
    assert not echoes(node, context(authority, Authority(folder, "other").issue("stranger")))


def test_an_expired_certificate_is_not(node, authority):
    assert not echoes(node, context(authority, authority.issue("old", days=-1)))


def test_weak_ciphers_are_not(node, authority):
    weak = context(authority, authority.issue("modality"), maximum_version=ssl.TLSVersion.TLSv1_2)
    weak.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    assert not echoes(node, weak)


def test_plain_dicom_is_not(node):
    with raw_peer(node.port) as peer, suppress(ConnectionResetError):
        assert peer.ask(CALLER, TITLE)[0] != 2


def test_a_handshake_that_stalls_keeps_nobody_waiting(node, authority):
    with raw_peer(node.port):
        assert echoes(node, context(authority, authority.issue("modality")))


def test_an_ae_title_may_be_bound_to_certificates(authority, folder, tmp_path):
    own = authority.issue("edge")
    tls = {"certificate": own.certificate, "key": own.key, "client_authorities": authority.certificate}
    listen = {"address": "127.0.0.1", "port": 0, "tls": {name: str(path) for name, path in tls.items()}}
    peers = [{"ae_title": CALLER, "addresses": ["127.0.0.1"], "certificate_names": ["modality"]}]
    with edge(tmp_path, "http://127.0.0.1:9", listen=listen, peers=peers) as bound:
        assert echoes(bound, context(authority, authority.issue("modality")))
        assert not echoes(bound, context(authority, authority.issue("another")))
        assert 'why="certificate not of the AE title"' in bound.metrics.page()


def test_a_stop_just_before_the_handshake_does_not_wait_for_it(authority, tmp_path, monkeypatch):
    """The socket is replaced by an encrypted one then, and a stop would shut down the one before."""
    own = authority.issue("edge")
    tls = {"certificate": own.certificate, "key": own.key, "client_authorities": authority.certificate}
    listen = {"address": "127.0.0.1", "port": 0, "tls": {name: str(path) for name, path in tls.items()}}
    monkeypatch.setattr(association, "_NEGOTIATION_SECONDS", 600)
    encrypt = ssl.SSLContext.wrap_socket

    def stop_meanwhile(*given: Any, **named: Any) -> ssl.SSLSocket:
        encrypted = encrypt(*given, **named)
        for one in list(running.listener._open):
            one.stop()
        return encrypted

    with edge(tmp_path, "http://127.0.0.1:9", listen=listen) as running:
        monkeypatch.setattr(ssl.SSLContext, "wrap_socket", stop_meanwhile)
        with raw_peer(running.port) as peer, suppress(ConnectionResetError):
            assert peer.read() == (0, b"")


def revoking(authority: Authority, revoked: Path) -> dict[str, Any]:
    own = authority.issue("edge")
    tls = {"certificate": own.certificate, "key": own.key, "client_authorities": authority.certificate}
    files = tls | {"revocation_list": revoked}
    return {"address": "127.0.0.1", "port": 0, "tls": {name: str(path) for name, path in files.items()}}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_revoked_certificate_is_refused_and_another_is_accepted(authority, tmp_path, version):
    stolen, other = authority.issue("stolen"), authority.issue("modality")
    versions = {"minimum_version": version, "maximum_version": version}
    with edge(tmp_path, "http://127.0.0.1:9", listen=revoking(authority, authority.revoke(stolen))) as node:
        assert not echoes(node, context(authority, stolen, **versions))
        assert echoes(node, context(authority, other, **versions))


def test_a_list_that_has_expired_refuses_everybody(authority, tmp_path):
    listen = revoking(authority, authority.revoke(days=-1))
    with edge(tmp_path, "http://127.0.0.1:9", listen=listen) as node:
        assert not echoes(node, context(authority, authority.issue("modality")))
        until("the alarm", lambda: 'airlock_edge_alarm{name="revocation_list"} 1' in node.metrics.page())


def test_an_authority_without_a_list_is_refused(authority, folder, tmp_path):
    other = Authority(folder, "another-hospital")
    listen = revoking(authority, other.revoke())
    with edge(tmp_path, "http://127.0.0.1:9", listen=listen) as node:
        assert not echoes(node, context(authority, authority.issue("modality")))
