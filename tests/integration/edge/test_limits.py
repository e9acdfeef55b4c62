"""An edge in a process of its own at its limits: 4 GB in one object, a thousand associations, a cut line, kills."""

from __future__ import annotations

import hashlib
import re
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.sop_class import CTImageStorage

from airlock_edge.part10 import make_header
from tests.dicom_files import ROOT, ct, sop_uid
from tests.servers.discarding_s3 import discarding_s3
from tests.servers.edge import CALLER, TITLE, data_set_of, edge_process
from tests.servers.proxy import Proxy
from tests.servers.raw_peer import RawPeer, raw_peer
from tests.waiting import until

if TYPE_CHECKING:
    from tests.servers.edge import EdgeProcess

pytestmark = [pytest.mark.slow, pytest.mark.proof]
PIECE = 120 * 1024
MIB = 1024**2
SPOOLING = {"store": "spool", "spool": {"redundant": True, "most_retry_seconds": 1}}


def peak(running: EdgeProcess) -> int:
    """Return the most memory that the process has had, in MiB."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) // 1024


@pytest.mark.parametrize("store", ["s3", "spool"])
def test_an_object_of_4_gb_takes_no_memory_of_its_size(endpoint, tmp_path, store):
    head = data_set_of(ct(PixelData=None)) + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
    piece, pieces = bytes(range(256)) * (PIECE // 256), 4 * 1024 * MIB // PIECE + 1
    whole = hashlib.sha256(make_header(CTImageStorage, sop_uid(1, 1, 1), ExplicitVRLittleEndian) + head)
    changes = SPOOLING | {"store": store}
    with discarding_s3() as s3, edge_process(tmp_path, s3.url, **changes) as running, raw_peer(running.port) as peer:
        peer.connection.settimeout(250)
        assert peer.ask(CALLER, TITLE)[0] == 2
        peer.send_store(sop_uid(1, 1, 1), head, last=False)
        for number in range(pieces):
            whole.update(piece)
            peer.send_fragment(2 if number == pieces - 1 else 0, piece)
        assert peer.read_status() == 0
        until("it is on S3", lambda: s3.keys, 200)
        assert s3.whole.digest() == whole.digest()
        assert peak(running) < 500


def test_a_thousand_associations_at_a_time(endpoint, objects, tmp_path):
    listen = {"address": "127.0.0.1", "port": 0, "associations": 1000, "associations_of_peer": 1000}
    with ExitStack() as kept, discarding_s3() as s3, edge_process(tmp_path, s3.url, listen=listen) as running:

        def associate(_: int) -> RawPeer:
            peer = kept.enter_context(raw_peer(running.port))
            peer.connection.settimeout(120)
            assert peer.ask(CALLER, TITLE)[0] == 2
            return peer

        with ThreadPoolExecutor(40) as pool:
            peers = list(pool.map(associate, range(1000)))
            with raw_peer(running.port) as another:
                kind, content = another.ask(CALLER, TITLE)
                assert (kind, tuple(content[1:])) == (3, (2, 3, 2))
            statuses = Counter(pool.map(_store, peers, range(1000)))
        assert statuses == {0: 1000}
        assert len(set(s3.keys)) == 1000
        assert peak(running) < 1000


def _store(peer: RawPeer, number: int) -> int:
    peer.send_store(sop_uid(1, 1, number), data_set_of(ct(instance=number)))
    return peer.read_status()


def test_a_line_that_is_cut_for_long_and_kills_meanwhile_lose_nothing(endpoint, objects, tmp_path):
    """The day is a minute here: what is shown is that the number of tries does not end."""
    line = Proxy()
    line.target = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
    line.cut_after(0)
    acknowledged = 0
    for _ in range(3):
        with edge_process(tmp_path, line.url, **SPOOLING) as running:
            with raw_peer(running.port) as peer:
                assert peer.ask(CALLER, TITLE)[0] == 2
                for number in range(20):
                    assert _store(peer, acknowledged + number) == 0
                acknowledged += 20
            until("uploads are tried again", lambda: "tried again" in running.log, 90)
            running.end(signal.SIGKILL)
    line.restore()
    with edge_process(tmp_path, line.url, **SPOOLING) as running:
        until("all are on S3", lambda: len(objects.bodies()) == acknowledged, 120)
        assert running.end() == 0
        log = running.log
    line.close()
    assert not [text for text in (ROOT, "Test^Number", "PID-", "ACC-") if text in log]


def test_a_process_that_is_told_to_stop_finishes_what_it_receives(endpoint, objects, tmp_path):
    content = data_set_of(ct())
    with edge_process(tmp_path, endpoint) as running, raw_peer(running.port) as peer:
        assert peer.ask(CALLER, TITLE)[0] == 2
        peer.send_store(sop_uid(1, 1, 1), content[:50], last=False)
        until("it has begun", lambda: list((running.state / "incoming").iterdir()))
        running.process.send_signal(signal.SIGTERM)
        until("it refuses further ones", lambda: _is_closed(running.port))
        peer.send_fragment(2, content[50:])
        assert peer.read_status() == 0
        assert running.process.wait(60) == 0
    assert [data_set_of(body) for body in objects.bodies().values()] == [content]


def _is_closed(port: int) -> bool:
    try:
        with raw_peer(port):
            return False
    except OSError:
        return True
