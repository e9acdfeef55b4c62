"""A power cut at any moment: what was acknowledged is on S3, or flushed on the disk where the edge finds it."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

import psutil
import pytest
from benchmarks.dicom_sender import CT

from airlock.records import digest
from airlock_edge.book import Book, State
from tests.edge_kills.items import make_small
from tests.edge_kills.power_cut import OPTIONS, Disk, Kind, read_trace
from tests.edge_kills.process import EdgeProcess, S3Objects, running, send_all, stored_file

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.dicom_sender import Item

    from tests.edge_kills.power_cut import Call, Cut

pytestmark = [
    pytest.mark.proof,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        shutil.which("strace") is None, reason="strace is not installed (Debian: apt-get install strace)"
    ),
]
PEERS, OBJECTS = 3, 4  # of each peer
STORE_RESPONSE = b"\0\0\0\x01\2\0\0\0\x01\x80"  # element (0000,0100) with the command C-STORE-RSP
SUCCEEDED = b"\0\0\0\x09\2\0\0\0\0\0"  # element (0000,0900) with status 0000
RESTARTS = 6


class Watch:
    """What peers were told, and what S3 has confirmed, as the calls on sockets show.

    Parameters
    ----------
    port
        Of the edge.
    items
        What is sent.
    """

    def __init__(self, port: int, items: list[Item]) -> None:
        self._own = f"TCP:[127.0.0.1:{port}->"
        self._items = items
        self._asked: dict[str, str] = {}  # by socket: the key of the last request
        self.acknowledged: list[Item] = []
        self.confirmed: set[str] = set()  # keys

    def note(self, call: Call) -> None:
        """Note a call."""
        if call.name == "sendto" and call.target.startswith(self._own):
            self._note_response(call.texts[0])
        elif call.name == "sendto" and call.texts[0].startswith(b"PUT "):
            self._asked[call.target] = call.texts[0].split(b" ")[1].decode()
        elif call.name == "recvfrom" and call.texts and call.texts[0].startswith(b"HTTP/1.1 200"):
            self.confirmed.add(self._asked.pop(call.target, ""))

    def _note_response(self, message: bytes) -> None:
        if STORE_RESPONSE in message and SUCCEEDED in message:
            named = [item for item in self._items if _padded(item.sop_instance_uid) in message]
            assert len(named) == 1, "a response names its instance"
            self.acknowledged += named


def _padded(uid: str) -> bytes:
    raw = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\0\0\0\x10" + len(raw).to_bytes(4, "little") + raw  # element (0000,1000)


def record(edge: EdgeProcess, trace: Path, items: list[Item]) -> None:
    """Run an edge under strace while several peers send, and kill it when all is on S3."""
    edge.state.mkdir()
    edge.start(command=[*OPTIONS, "-o", str(trace)])
    try:
        assert edge.wait_until_listening(), edge.log.read_text()
        peers = [Thread(target=send_all, args=(edge.port, items[n::PEERS])) for n in range(PEERS)]
        for peer in peers:
            peer.start()
        for peer in peers:
            peer.join()
        edge.wait_until_drained()
    finally:
        for child in psutil.Process(edge.pid).children():
            child.kill()
        edge.wait_for_end()


@pytest.mark.parametrize("store", ["spool", "s3"])
def test_nothing_acknowledged_is_lost_by_a_power_cut(s3: str, tmp_path: Path, store: str) -> None:
    items = [make_small(number, 40_000) for number in range(1, PEERS * OBJECTS + 1)]
    edge = EdgeProcess(tmp_path / "edge", s3, f"cut-{store}/", store=store)
    record(edge, tmp_path / "trace", items)
    disk, watch = Disk(str(edge.state)), Watch(edge.port, items)
    moments, cuts = 0, []
    for call in disk.apply(read_trace(tmp_path / "trace")):
        told = len(watch.acknowledged)
        watch.note(call)
        for kind in Kind if watch.acknowledged else ():
            left = Left(disk.cut(kind), tuple(watch.acknowledged), frozenset(watch.confirmed))
            lost = left.find_lost()
            assert not lost, f"{kind.value}: {len(lost)} lost if the power is cut at {call.name} {call.target}"
            moments += 1
            if len(watch.acknowledged) > told:
                cuts.append(left)
    assert len(watch.acknowledged) == len(items)
    assert {name_of(item) for item in items} <= {key.rpartition("/")[2] for key in watch.confirmed}
    sys.stderr.write(f"\nstore {store}: {len(items)} acknowledged, {moments} power cuts, 0 lost\n")
    for number, left in enumerate(cuts[:: max(1, len(cuts) // RESTARTS)]):
        check_restart(s3, tmp_path / f"after-{number}", f"cut-{store}/", store, left)


@dataclass(frozen=True)
class Left:
    """What there is after a power cut: on the disk, what peers were told, and the keys that S3 had confirmed."""

    cut: Cut
    acknowledged: tuple[Item, ...]
    confirmed: frozenset[str]

    def find_lost(self) -> list[Item]:
        """Return the acknowledged objects that are neither confirmed by S3 nor whole in the spool."""
        names = {key.rpartition("/")[2] for key in self.confirmed}
        spooled = {content for path, content in self.cut.files.items() if path.startswith("spool/")}
        return [item for item in self.acknowledged if name_of(item) not in names and stored_file(item) not in spooled]


def name_of(item: Item) -> str:
    """Return the last part of an object's key."""
    return digest("object", hashlib.sha256(stored_file(item)).hexdigest()) + ".dcm"


def check_restart(s3: str, folder: Path, prefix: str, store: str, left: Left) -> None:
    """Start an edge on what is left: it brings the rest to S3, and its book knows all that was acknowledged."""
    edge, objects = EdgeProcess(folder, s3, prefix, store=store), S3Objects(s3, prefix)
    objects.delete()
    left.cut.write(edge.state)
    with running(edge):
        edge.wait_until_drained()
    names = {key.rpartition("/")[2] for key in (*left.confirmed, *objects.list_keys())}
    assert {name_of(item) for item in left.acknowledged} <= names
    book = Book(edge.state)
    states = [row.state for item in left.acknowledged for row in book.find(item.sop_instance_uid, CT)]
    book.close()
    assert states == [State.DURABLE] * len(left.acknowledged)
    damaged = {path.name.split("_")[2] for path in (edge.state / "damaged").iterdir()}
    assert not damaged & {name_of(item).removesuffix(".dcm") for item in left.acknowledged}
