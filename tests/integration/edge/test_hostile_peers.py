"""Peers that break the protocol, send slowly, or take what others need: each harms its own association only."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest

from airlock_edge import association, listener
from tests.dicom_files import ct, sop_uid
from tests.fuzz.messages import (
    ABORT,
    C_ECHO,
    CT,
    ECHO,
    N_ACTION,
    RELEASE,
    command,
    context,
    data,
    echo,
    element,
    item,
    pdu,
    pdv,
    request,
    store,
    user_information,
)
from tests.fuzz.peers import CANARY, Traces, fuzz, judge_spool, settles
from tests.servers.broken import broken_server
from tests.servers.certificates import Authority
from tests.servers.edge import CALLER, TITLE, data_set_of, edge
from tests.servers.raw_peer import RawPeer
from tests.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock_edge.node import Node

pytestmark = pytest.mark.slow
ACCEPTED, REJECTED, RELEASED, ABORTED = 2, 3, 6, 7
USER, UNRECOGNIZED, UNEXPECTED, INVALID = (0, 0), (2, 1), (2, 2), (2, 6)  # source and reason (PS3.8 9.3.8)
CONTENT = data_set_of(ct())
REQUEST = request(CALLER, TITLE, context(1), context(3, ECHO), user_information())
SPOOLING = {"store": "spool", "spool": {"redundant": True}}
AWAY = "http://127.0.0.1:9"


def listen(**changes: object) -> dict[str, object]:
    return {"address": "127.0.0.1", "port": 0, **changes}


@pytest.fixture(scope="module")
def node(endpoint, tmp_path_factory) -> Iterator[Node]:
    """Yield an edge that most tests use; it keeps objects in its spool."""
    with edge(tmp_path_factory.mktemp("hostile"), AWAY, **SPOOLING) as started:
        Traces.of(started)  # opens all of its files, none of which then counts as left behind by a test's own edge
        yield started


class Connections(ExitStack):
    """Connections that are closed at the end of the block."""

    def open(self, node: Node, source: str = "127.0.0.1") -> RawPeer:
        made = socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE, source_address=(source, 0))
        return RawPeer(self.enter_context(made))

    def associate(self, node: Node, sent: bytes = REQUEST, source: str = "127.0.0.1") -> RawPeer:
        peer = self.open(node, source)
        peer.connection.sendall(sent)
        assert peer.read()[0] == ACCEPTED
        return peer


@pytest.fixture
def connections() -> Iterator[Connections]:
    with Connections() as made:
        yield made


def read_abort(peer: RawPeer) -> tuple[int, int]:
    """Return source and reason of the abort that comes next, behind which the connection ends."""
    kind, content = peer.read()
    assert kind == ABORTED
    peer.connection.shutdown(socket.SHUT_WR)
    assert peer.read() == (0, b"")
    return content[2], content[3]


def count_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def spooled(node: Node) -> int:
    return sum(1 for _ in node.spool.waiting())


class TestTheProvidersAborts:
    """PS3.8 table 9-10: which PDU in which state gets which abort."""

    @pytest.mark.parametrize(
        "sent",
        [
            pdu(0x04, pdv(3, echo())),
            RELEASE,
            pdu(0x02, bytes(68)),
            pdu(0x09, b"xx"),
            pdu(0x01, b"", length=0xFFFFFFFF),
            request(CALLER, TITLE, context(2), user_information()),
            request(CALLER, TITLE, context(1), context(1, CT, "1.2.840.10008.1.2"), user_information()),
            request(CALLER, TITLE, item(0x20, bytes((1, 0, 0, 0)) + item(0x30, CT.encode())), user_information()),
            request(CALLER, TITLE, item(0x20, bytes((1, 0, 0, 0)) + item(0x40, b"1.2.840.10008.1.2")),
                    user_information()),
            request(CALLER, TITLE, context(1), user_information(6)),
            request(CALLER, TITLE, context(1), item(0x50, b"\x51\0\0\4", length=400)),
        ],
        ids=["data", "release", "accept", "unknown", "4 GB", "even", "twice", "no syntax", "no class", "6 bytes",
             "lie"],
    )  # fmt: skip
    def test_before_the_request_the_source_is_the_user(self, node, connections, sent):
        peer = connections.open(node)
        peer.connection.sendall(sent)
        assert read_abort(peer) == USER

    def test_an_abort_before_the_request_ends_the_connection(self, node, connections):
        peer = connections.open(node)
        peer.connection.sendall(ABORT)
        assert peer.read() == (0, b"")

    @pytest.mark.parametrize(
        ("sent", "answer"),
        [
            (REQUEST, UNEXPECTED),
            (pdu(0x02, bytes(68)), UNEXPECTED),
            (pdu(0x06, bytes(4)), UNEXPECTED),
            (pdu(0x08, b"x"), UNRECOGNIZED),
            (pdu(0xFF, b"", length=0xFFFFFFFF), UNRECOGNIZED),
            (pdu(0x04, b"", length=0xFFFFFFFF), INVALID),
            (pdu(0x04, pdv(3, echo(), length=0)), INVALID),
            (pdu(0x04, pdv(3, echo(), length=0xFFFFFFFF)), INVALID),
            (pdu(0x04, pdv(3, echo(), length=1)), INVALID),
            (data(3, echo(), number=5), INVALID),
            (data(3, echo(), number=2), INVALID),
            (data(2, CONTENT), INVALID),
            (data(1, echo()[:20]) + data(3, echo()[20:], number=3), INVALID),
            (data(1, echo()[:20]) + RELEASE, UNEXPECTED),
            (data(3, store("1.2")) + RELEASE, UNEXPECTED),
            (data(3, store("1.2")) + data(2, CONTENT, number=3), INVALID),
            (data(3, store("1.2")) + data(3, echo(), number=3), INVALID),
            (data(3, element(0x0100, C_ECHO, group=8)), INVALID),
            (data(3, element(0x0100, b"", length=0xFFFFFFFF)), INVALID),
            (data(3, b""), INVALID),
            (data(1, bytes(60_000)) * 2, INVALID),
            (data(3, command(C_ECHO, message=None, data_set=0x0101)), INVALID),
            (data(3, command(N_ACTION, data_set=0x0101)), INVALID),
        ],
    )
    def test_afterwards_the_source_is_the_provider(self, node, connections, sent, answer):
        peer = connections.associate(node)
        peer.connection.sendall(sent)
        assert read_abort(peer) == answer
        assert not spooled(node)

    def test_a_request_that_cannot_be_answered_is_not_stored(self, node, connections):
        peer = connections.associate(node)
        peer.connection.sendall(data(3, store(sop_uid(1, 1, 1), message=None)) + data(2, CONTENT))
        assert read_abort(peer) == INVALID
        assert not spooled(node)

    def test_what_follows_a_release_is_not_read(self, node, connections):
        peer = connections.associate(node)
        peer.connection.sendall(RELEASE + data(3, store(sop_uid(1, 1, 1))) + data(2, CONTENT))
        assert peer.read()[0] == RELEASED
        peer.connection.shutdown(socket.SHUT_WR)
        assert peer.read() == (0, b"")
        assert not spooled(node)


def test_a_peer_that_takes_small_pdus_gets_its_answer(node, connections):
    peer = connections.associate(node, request(CALLER, TITLE, context(3, ECHO), user_information(64)))
    peer.connection.sendall(data(3, echo(), number=3))
    received, control = b"", 0
    while not control & 2:
        kind, content = peer.read()
        assert (kind, len(content) <= 64) == (4, True)
        received, control = received + content[6:], content[5]
    assert element(0x0900, 0) in received


def test_a_data_set_of_a_response_is_read_and_gets_no_answer(node, connections):
    """An N-EVENT-REPORT response may have an Event Reply (PS3.7 section 10.1.1.1)."""
    peer = connections.associate(node)
    answer = command(0x8100, element(0x0120, 1), element(0x0900, 0), message=None)
    peer.connection.sendall(data(3, answer) + data(0, b"x") + data(2, CONTENT) + data(3, echo(), number=3))
    kind, content = peer.read()
    assert (kind, content[4]) == (4, 3)
    assert element(0x0120, 9) in content


def test_an_object_whose_command_names_no_class_has_that_of_its_context(node, connections, tmp_path):
    with edge(tmp_path, AWAY, **SPOOLING) as other:
        peer = connections.associate(other)
        peer.connection.sendall(data(3, command(1, element(0x1000, "1.2.3"))) + data(2, CONTENT))
        assert peer.read_status() == 0
        other.recorder.flush()
        assert [row.sop_instance_uid for row in other.book.find("1.2.3", CT)] == ["1.2.3"]
        connections.close()


class TestSlowPeers:
    @pytest.fixture
    def slowly(self) -> Iterator[object]:
        """Yield what starts to send a byte every 50 ms."""
        over, threads = Event(), []

        def drip(peer: RawPeer, content: bytes) -> None:
            with suppress(OSError):
                for byte in content:
                    if over.wait(0.05):
                        return
                    peer.connection.sendall(bytes((byte,)))

        def start(peer: RawPeer, content: bytes) -> None:
            threads.append(Thread(target=drip, args=(peer, content)))
            threads[-1].start()

        yield start
        over.set()
        for thread in threads:
            thread.join()

    def test_a_request_has_a_time_for_all_of_it(self, node, connections, slowly, monkeypatch):
        monkeypatch.setattr(association, "_NEGOTIATION_SECONDS", 0.3)
        peer = connections.open(node)
        slowly(peer, REQUEST)
        with suppress(ConnectionResetError):  # a byte came just before the end
            assert peer.read() == (0, b"")

    def test_a_connection_that_says_nothing_is_closed_without_a_word(self, node, connections, monkeypatch):
        monkeypatch.setattr(association, "_NEGOTIATION_SECONDS", 0.2)
        assert connections.open(node).read() == (0, b"")

    def test_a_refused_peer_cannot_keep_its_connection(self, node, connections, slowly, monkeypatch):
        monkeypatch.setattr(association, "_DRAIN_SECONDS", 0.3)
        peer = connections.open(node)
        peer.connection.sendall(request("STRANGER", TITLE, context(1), user_information()))
        assert peer.read()[0] == REJECTED
        slowly(peer, bytes(10_000))
        until("it is closed", lambda: not node.listener._open)

    def test_a_message_has_a_least_pace(self, connections, tmp_path, slowly):
        with edge(tmp_path, AWAY, **SPOOLING, listen=listen(stalled_seconds=0.2)) as slow:
            peer = connections.associate(slow)
            slowly(peer, data(3, store("1.2")) + data(2, CONTENT))
            assert peer.read()[0] == ABORTED
            connections.close()


class TestConnectionsThatWouldKeepOthersOut:
    def test_strangers_take_no_place_of_a_peer(self, connections, tmp_path):
        peers = [{"ae_title": CALLER, "addresses": ["127.0.0.2"]}]
        with edge(tmp_path, AWAY, **SPOOLING, peers=peers, listen=listen(associations=1)) as node:
            for _ in range(listener._PENDING + 6):
                connections.open(node)
            connections.associate(node, source="127.0.0.2")
            connections.close()

    def test_a_strangers_request_is_not_decoded(self, connections, tmp_path, monkeypatch, log):
        def decode(_: bytes) -> None:
            raise AssertionError

        monkeypatch.setattr(association, "Proposal", decode)
        peers = [{"ae_title": CALLER, "addresses": ["127.0.0.2"]}]
        with edge(tmp_path, AWAY, **SPOOLING, peers=peers) as node:
            for title in (CALLER, "X\r\nERROR"):
                peer = connections.open(node)
                peer.connection.sendall(request(title, TITLE, *[item(0x10, b"")] * 200_000))
                assert peer.read() == (REJECTED, bytes((0, 1, 1, 3)))
            connections.close()
        assert "refused 'MODALITY' from 127.0.0.1: address not allowed for the AE title" in log.text
        assert r"refused 'X\r\nERROR' from 127.0.0.1: calling AE title not known" in log.text

    def test_one_address_takes_no_place_of_another(self, connections, tmp_path):
        peers = [{"ae_title": CALLER, "addresses": ["127.0.0.0/8"]}]
        with edge(tmp_path, AWAY, **SPOOLING, peers=peers, listen=listen(associations=1)) as node:
            for _ in range(listener._PENDING + 6):
                connections.open(node)
            connections.associate(node, source="127.0.0.2")
            connections.close()


class TestTheListenerGoesOn:
    def test_when_no_file_can_be_opened(self, node, connections, monkeypatch):
        def refuse(*_: object) -> int:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(association.os, "eventfd", refuse)
            assert connections.open(node).read() == (0, b"")
        connections.associate(node)

    def test_when_no_thread_can_be_started(self, node, connections, monkeypatch):
        files = count_files()

        def refuse(_: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(listener.Thread, "start", refuse)
            peer = connections.open(node)
            assert peer.read() == (0, b"")
        peer.connection.close()
        until("no file stays open", lambda: count_files() <= files)
        connections.associate(node)

    def test_when_encrypted_connections_are_reset(self, connections, tmp_path):
        authority = Authority(tmp_path, "hospital")
        own = authority.issue("edge")
        files = {"certificate": own.certificate, "key": own.key, "client_authorities": authority.certificate}
        tls = {name: str(path) for name, path in files.items()}
        with edge(tmp_path, AWAY, **SPOOLING, listen=listen(tls=tls)) as node:
            for _ in range(200):
                with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as made:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    made.sendall(b"garbage" * 10)
            peer = connections.open(node)
            peer.connection.sendall(b"garbage" * 10)
            with suppress(ConnectionResetError):
                assert peer.connection.recv(1) in {b"", b"\x15"}  # nothing, or an alert: somebody has answered
            connections.close()


def test_an_edge_listens_on_ipv6_and_knows_mapped_addresses(connections, tmp_path):
    with edge(tmp_path, AWAY, **SPOOLING, listen=listen(address="::")) as node:
        connections.associate(node)
        connections.close()


@pytest.mark.filterwarnings("ignore")  # of pydicom, about UIDs
def test_damaged_messages_get_the_answers_of_the_standard(tmp_path, log):
    with edge(tmp_path, AWAY, **SPOOLING) as node:
        before = Traces.of(node)
        tally = fuzz(node, range(250))
        assert not tally.differences
        assert settles(node, before), f"left behind: {Traces.now()} after {before}, {threading.enumerate()}"
        assert not judge_spool(node, tally)
    assert tally.stored
    assert CANARY.decode() not in log.text


def test_connections_without_an_association_do_not_delay_the_end(connections, tmp_path):
    with edge(tmp_path, AWAY, **SPOOLING) as node:
        peer = connections.open(node)
        until("it is there", lambda: node.listener._open)
        node.listener.stop(patience=0)
        assert peer.read() == (0, b"")


def answer_of(status: bytes, body: bytes = b"", headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, headers, len(body), body)


ERROR = b"<Error><Code>InternalError\nERROR forged line</Code></Error>"


@pytest.mark.parametrize(
    "answer",
    [
        answer_of(b"200 OK"),
        answer_of(b"200 OK", ERROR),
        answer_of(b"200 OK", headers=b'ETag: "x"\r\nx-amz-checksum-sha256: ' + b"A" * 43 + b"=\r\n"),
        answer_of(b"403 Forbidden", ERROR),
        answer_of(b"307 Temporary Redirect", headers=b"Location: http://127.0.0.1:9/\r\n"),
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH\r\n",
    ],
    ids=["no checksum", "error in 200", "another checksum", "forged code", "elsewhere", "cut", "not HTTP"],
)
def test_an_s3_that_lies_gets_nothing_acknowledged(connections, tmp_path, log, answer):
    with broken_server(answer) as address, edge(tmp_path, address) as node:
        peer = connections.associate(node)
        peer.connection.sendall(data(3, store(sop_uid(1, 1, 1))) + data(2, CONTENT))
        assert peer.read_status() == 0xA700
        assert (node.book.count(), list(node.spool.incoming.iterdir())) == (0, [])
        connections.close()
    assert "\nERROR forged" not in log.text
