"""The table of docs/edge.md: what a peer gets for bad input, what the log says, and that nothing is lost."""

from __future__ import annotations

import itertools
import os
import struct
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import CTImageStorage

from airlock_edge.keys import Place
from tests.dicom_files import ct, sop_uid
from tests.servers.broken import broken_server
from tests.servers.edge import CALLER, TITLE, Objects, data_set_of, edge, upload_spool
from tests.servers.raw_peer import RawPeer, raw_peer
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock_edge.node import Node

pytestmark = pytest.mark.slow
ACCEPTED, REJECTED, DATA, RELEASED, ABORTED = 2, 3, 4, 6, 7
ANOTHER_INSTANCE = sop_uid(1, 1, 2)


FILE = ct()
CONTENT = data_set_of(FILE)


@contextmanager
def accepted(node: Node, **context: str) -> Iterator[RawPeer]:
    with raw_peer(node.port) as peer:
        assert peer.ask(CALLER, TITLE, **context)[0] == ACCEPTED
        yield peer


def store(node: Node, *pieces: bytes, instance: str = sop_uid(1, 1, 1), **context: str) -> int:
    with accepted(node, **context) as peer:
        peer.send_store(instance, *pieces)
        return peer.read_status()


def nothing_is_left(node: Node, objects: Objects) -> bool:
    return not (objects.bodies() or list(node.spool.incoming.iterdir()) or list(node.spool.waiting()))


@pytest.fixture(scope="module")
def shared(endpoint, tmp_path_factory) -> Iterator[Node]:
    """Yield an edge that several tests use."""
    with edge(tmp_path_factory.mktemp("shared"), endpoint) as node:
        yield node


class TestWhoMayCall:
    @pytest.mark.parametrize(
        "case",
        [
            ("STRANGER", TITLE, (1, 1, 3), "calling AE title not known"),
            (CALLER, "OTHER", (1, 1, 7), "called AE title not known"),
        ],
    )
    def test_a_stranger_is_rejected_and_counted(self, shared, log, case):
        calling, called, answer, why = case
        with raw_peer(shared.port) as peer:
            kind, content = peer.ask(calling, called)
            assert (kind, tuple(content[1:])) == (REJECTED, answer)
            until("it is counted", lambda: f'why="{why}"' in shared.metrics.page())
        assert f"refused '{calling}' from 127.0.0.1: {why}" in log.text

    def test_a_known_title_from_another_address_is_a_stranger(self, endpoint, objects, tmp_path):
        peers = [{"ae_title": CALLER, "addresses": ["10.0.0.0/8"]}]
        with edge(tmp_path, endpoint, peers=peers) as node, raw_peer(node.port) as peer:
            assert peer.ask(CALLER, TITLE)[0] == REJECTED

    @pytest.mark.parametrize("limit", ["associations", "associations_of_peer"])
    def test_too_many_associations_are_rejected_for_now(self, endpoint, objects, tmp_path, limit):
        listen = {"address": "127.0.0.1", "port": 0, limit: 1}
        with edge(tmp_path, endpoint, listen=listen) as node:
            with accepted(node), raw_peer(node.port) as other:
                kind, content = other.ask(CALLER, TITLE)
                assert (kind, tuple(content[1:])) == (REJECTED, (2, 3, 2))
            until("the first has ended", lambda: not any(node.listener.open_by_peer().values()))
            with accepted(node):
                pass


class TestWhatIsNotDicom:
    @pytest.mark.parametrize(
        "sent",
        [
            b"GET / HTTP/1.0\r\n\r\n",
            struct.pack(">BxI", 1, 4) + b"none",
            struct.pack(">BxI", 1, 0xFFFFFFFF),
            struct.pack(">BxI", 4, 4) + bytes(4),
            struct.pack(">BxI", 5, 4) + bytes(4),
            struct.pack(">BxI", 1, 68) + bytes(68),
        ],
    )
    def test_another_protocol_is_aborted(self, shared, objects, sent):
        with raw_peer(shared.port) as peer:
            peer.connection.sendall(sent)
            assert peer.read()[0] == ABORTED
        assert store(shared, CONTENT) == 0

    @pytest.mark.parametrize(
        "sent",
        [
            struct.pack(">BxI", 9, 0),
            struct.pack(">BxI", 1, 0),
            struct.pack(">BxI", 4, 3) + b"abc",
            struct.pack(">BxIIBB", 4, 6, 99, 1, 3),
            struct.pack(">BxIIBB", 4, 6, 2, 3, 3),
            struct.pack(">BxIIBB", 4, 6, 2, 1, 2),
            struct.pack(">BxIIBB4s", 4, 10, 6, 1, 3, b"junk"),
            struct.pack(">BxIIBBHHI", 4, 14, 10, 1, 3, 8, 0, 0),
        ],
    )
    def test_a_message_out_of_its_order_is_aborted(self, shared, objects, sent):
        with accepted(shared) as peer:
            peer.connection.sendall(sent)
            assert peer.read()[0] == ABORTED

    def test_a_command_within_a_data_set_is_aborted_and_nothing_stays(self, endpoint, objects, tmp_path, log):
        with edge(tmp_path, endpoint) as node:
            with accepted(node) as peer:
                peer.send_store(sop_uid(1, 1, 1), CONTENT, last=False)
                peer.send_store(sop_uid(1, 1, 1), CONTENT)
                assert peer.read()[0] == ABORTED
            until("nothing is left", lambda: nothing_is_left(node, objects))
        assert "in the middle of a message" in log.text

    def test_a_store_without_a_data_set_cannot_be_understood(self, endpoint, objects, tmp_path):
        with edge(tmp_path, endpoint) as node:
            assert store(node) == 0xC000


class TestBrokenAssociations:
    def test_one_that_dies_in_the_middle_of_an_object_leaves_nothing(self, endpoint, objects, tmp_path, log):
        with edge(tmp_path, endpoint) as node:
            with accepted(node) as peer:
                peer.send_store(sop_uid(1, 1, 1), CONTENT[:100], last=False)
            until("it is noted", lambda: "ended in the middle of a message" in log.text)
            until("nothing is left", lambda: nothing_is_left(node, objects))
            assert store(node, CONTENT) == 0

    def test_one_that_stalls_in_the_middle_of_an_object_is_aborted(self, endpoint, objects, tmp_path):
        listen = {"address": "127.0.0.1", "port": 0, "stalled_seconds": 0.2}
        with edge(tmp_path, endpoint, listen=listen) as node, accepted(node) as peer:
            peer.send_store(sop_uid(1, 1, 1), CONTENT[:100], last=False)
            assert peer.read()[0] == ABORTED

    def test_one_that_says_nothing_is_aborted(self, endpoint, objects, tmp_path):
        listen = {"address": "127.0.0.1", "port": 0, "idle_seconds": 0.2}
        with edge(tmp_path, endpoint, listen=listen) as node, accepted(node) as peer:
            assert peer.read()[0] == ABORTED

    def test_a_peer_may_abort_and_release(self, endpoint, objects, tmp_path, log):
        with edge(tmp_path, endpoint) as node:
            with accepted(node) as peer:
                peer.connection.sendall(struct.pack(">BxI", 7, 4) + bytes(4))
                assert peer.read()[0] == 0
            with accepted(node) as peer:
                peer.connection.sendall(struct.pack(">BxI", 5, 4) + bytes(4))
                assert peer.read()[0] == RELEASED
        assert "the peer aborted it" in log.text

    def test_the_end_of_the_edge_ends_an_idle_association(self, endpoint, objects, tmp_path):
        with edge(tmp_path, endpoint) as node, accepted(node) as peer:
            node.listener.stop()
            assert peer.read()[0] == ABORTED


class TestOddObjects:
    def test_one_in_another_transfer_syntax_than_negotiated_is_stored_as_it_came(self, shared, objects):
        assert store(shared, CONTENT, syntax=ImplicitVRLittleEndian) == 0
        assert store(shared, CONTENT, syntax=DeflatedExplicitVRLittleEndian, instance=ANOTHER_INSTANCE) == 0
        assert [data_set_of(body) for body in objects.bodies().values()] == [CONTENT, CONTENT]

    @pytest.mark.parametrize(
        "content", [b"\0", b"not DICOM at all", data_set_of(ct(StudyInstanceUID=None)), b"\xff" * 999]
    )
    def test_one_without_a_study_is_kept_below_a_folder_of_its_own(self, shared, objects, log, content):
        assert store(shared, content, instance="") == 0
        [(key, body)] = objects.bodies().items()
        assert key.split("/")[3] == "no-study"
        assert data_set_of(body) == content
        assert "sent an object without a StudyInstanceUID" in log.text

    def test_the_same_content_has_one_key_and_another_content_another(self, endpoint, objects, tmp_path):
        other = data_set_of(ct(pixel=1))
        with edge(tmp_path, endpoint) as node:
            assert [store(node, each) for each in (CONTENT, CONTENT, other)] == [0, 0, 0]
            assert len(node.book.find(sop_uid(1, 1, 1), CTImageStorage)) == 2
        assert sorted(data_set_of(body) for body in objects.bodies().values()) == sorted([CONTENT, other])

    def test_the_same_content_keeps_its_key_on_another_day(self, endpoint, objects, tmp_path):
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):  # 25 hours apart
            with edge(tmp_path, endpoint, timezone=zone) as node:
                assert store(node, CONTENT) == 0
        assert len(objects.bodies()) == 1

    def test_pieces_of_any_size_make_the_same_file(self, shared, objects):
        content = data_set_of(ct(Rows=512, Columns=512, PixelData=os.urandom(2 * 512 * 512)))
        cuts = [0, 1, 2, 3, 200, 70_000, 70_001, 300_000, len(content)]
        pieces = [content[first:last] for first, last in itertools.pairwise(cuts)]
        assert store(shared, *pieces[:4], b"", *pieces[4:]) == 0
        assert [data_set_of(body) for body in objects.bodies().values()] == [content]

    def test_one_that_is_too_large_is_refused(self, endpoint, objects, tmp_path):
        listen = {"address": "127.0.0.1", "port": 0, "object_gib": 1e-6}
        with edge(tmp_path, endpoint, listen=listen) as node:
            assert store(node, bytes(300_000)) == 0xA700
            assert 'why="too_large"' in node.metrics.page()
            assert nothing_is_left(node, objects)


class TestADiskThatIsFull:
    def test_objects_are_refused_above_the_limit(self, endpoint, objects, tmp_path, monkeypatch):
        with edge(tmp_path, endpoint, spool={"refuse_percent": 90}) as node:
            monkeypatch.setattr(node.spool, "used_percent", lambda: 91.0)
            assert store(node, CONTENT) == 0xA700
            monkeypatch.setattr(node.spool, "used_percent", lambda: 89.0)
            assert store(node, CONTENT) == 0

    def test_an_object_is_refused_if_the_disk_refuses_a_write(self, endpoint, objects, tmp_path, monkeypatch, log):
        with edge(tmp_path, endpoint, store="spool", spool={"redundant": True}) as node:
            name = node.spool.incoming / "full"
            name.symlink_to("/dev/full")
            monkeypatch.setattr(node.spool, "open_incoming", lambda: (name, os.open(name, os.O_WRONLY)))
            assert store(node, CONTENT) == 0xA700
            assert nothing_is_left(node, objects)
        assert "disk_No space left on device" in log.text


EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    % len(EXPIRED)
)


class TestAnS3ThatIsAway:
    def test_objects_are_refused_if_it_must_have_them(self, objects, tmp_path, log):
        with edge(tmp_path, "http://127.0.0.1:9", store="s3") as node:
            assert store(node, CONTENT) == 0xA700
            assert not list(node.spool.incoming.iterdir())
        assert "s3_EndpointConnectionError" in log.text

    def test_objects_are_refused_if_the_credentials_have_expired(self, objects, tmp_path, log):
        with broken_server(ANSWER + EXPIRED) as address, edge(tmp_path, address) as node:
            assert store(node, CONTENT) == 0xA700
        assert "s3_ExpiredToken" in log.text

    def test_without_credentials_an_edge_starts_and_spools(self, objects, endpoint, tmp_path, monkeypatch, log):
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        for program in ("/bin/false", "/nonexistent/helper", "/bin/echo junk"):
            (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
            with monkeypatch.context() as without:
                without.delenv("AWS_ACCESS_KEY_ID")
                with edge(tmp_path, endpoint, store="spool", spool={"redundant": True}) as node:
                    assert store(node, CONTENT) == 0
                    assert upload_spool(node) == 0
            assert "(CredentialRetrievalError)" in log.text
            log.clear()
        with edge(tmp_path, endpoint) as node:
            assert upload_spool(node) == 1
        assert len(objects.bodies()) == 1

    def test_an_object_with_other_bytes_on_s3_is_not_acknowledged(self, objects, endpoint, tmp_path, monkeypatch, log):
        with edge(tmp_path, endpoint) as node:
            monkeypatch.setattr("airlock_edge.reception.hashlib", SimpleNamespace(sha256=_Wrong))
            assert store(node, CONTENT) == 0xA700
            assert not node.book.count()
        assert "s3_BadDigest" in log.text

    def test_spooled_objects_wait_for_it(self, endpoint, objects, tmp_path):
        spooling = {"store": "spool", "spool": {"redundant": True}}
        with edge(tmp_path, "http://127.0.0.1:9", **spooling) as node:
            assert store(node, CONTENT) == 0
            [entry] = node.spool.waiting()
            assert Place.parse(entry.name).calling_ae_title == CALLER
            assert upload_spool(node) == 0
        with edge(tmp_path, endpoint) as node:
            assert upload_spool(node) == 1
            assert not list(node.spool.waiting())
        assert [data_set_of(body) for body in objects.bodies().values()] == [CONTENT]


class _Wrong:
    def update(self, _: object) -> None:
        pass

    def digest(self) -> bytes:
        return bytes(32)

    def hexdigest(self) -> str:
        return self.digest().hex()


def test_after_a_power_cut_whole_files_are_uploaded_and_damaged_ones_set_aside(endpoint, objects, tmp_path):
    spooling = {"store": "spool", "spool": {"redundant": True}}
    with edge(tmp_path, "http://127.0.0.1:9", **spooling) as node:
        assert store(node, CONTENT) == 0
        assert store(node, data_set_of(ct(instance=2)), instance=ANOTHER_INSTANCE) == 0
        files = sorted(entry.path for entry in node.spool.waiting())
        state = node.settings.state
    os.truncate(files[0], 999)
    (state / "incoming" / "1-1.part").write_bytes(b"half")
    (state / "book.sqlite").unlink()
    with edge(tmp_path, endpoint) as node:
        assert not list(node.spool.incoming.iterdir())
        assert upload_spool(node) == 1
        assert not list(node.spool.waiting())
        assert len(list(node.spool.damaged.iterdir())) == 1
        assert node.book.count() == 1
    assert len(objects.bodies()) == 1
