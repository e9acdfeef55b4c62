"""Hostile peers against a real edge: ``MUTATIONS=20000 python -m tests.fuzz.peers``.

Peer number n sends the same bytes in every run: ``ONLY=n``. Its answers are compared with those of `tests.fuzz.model`.
In the end the spool has every object that was acknowledged, byte for byte, and no other; no thread or file is left.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import resource
import socket
import struct
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz import messages
from tests.fuzz.messages import ABORT, CT, ECHO, RELEASE, context, data, element, pdu, pdv, user_information
from tests.fuzz.model import Answers, Model
from tests.servers.edge import CALLER, TITLE, data_set_of, edge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random
    from typing import Any

    from airlock_edge.node import Node

CANARY = b"CANARY^PATIENT"
CONTEXTS = {1: CT, 3: CT, 5: ECHO}
REQUEST = messages.request(
    CALLER, TITLE, *(context(number, uid) for number, uid in CONTEXTS.items()), user_information()
)
LENGTHS = (0, 1, 2, 5, 6, 7, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
LARGEST = 0xFFFFFFFF
PATIENCE = 60  # seconds for one peer
SETTLED_SECONDS = 60


def _payload(rng: Random) -> bytes:
    """Return a data set that says nothing to the edge, with a canary."""
    size = rng.choice((0, 1, 20, 700, 20_000, 70_000, 140_000) if rng.random() < 0.3 else (0, 1, 20, 700))
    return (CANARY + rng.randbytes(8) + bytes(size))[: size + 22]


def _cut(rng: Random, content: bytes) -> list[bytes]:
    """Return the content in pieces, empty ones among them."""
    cuts = sorted(rng.randint(0, len(content)) for _ in range(rng.choice((0, 0, 1, 2, 5))))
    return [content[first:last] for first, last in zip([0, *cuts], [*cuts, len(content)], strict=True)]


def _fragments(rng: Random, content: bytes, is_command: int, number: int) -> list[bytes]:
    pieces = _cut(rng, content)
    last = len(pieces) - 1
    return [pdv(is_command | (2 if at == last else 0), piece, number) for at, piece in enumerate(pieces)]


def _message(rng: Random, uid: str) -> list[bytes]:
    """Return the PDVs of a message: mostly sound, sometimes one whose command lies."""
    number = rng.choice((1, 1, 3, 5, rng.choice((0, 2, 7, 255))) if rng.random() < 0.1 else (1, 1, 3, 5))
    kind = rng.random()
    message = rng.choice((1, 2, 0, 0xFFFF))
    if kind < 0.6:
        command = messages.store(uid, message)
        return [*_fragments(rng, command, 1, number), *_fragments(rng, _payload(rng), 0, number)]
    if kind < 0.8:
        return _fragments(rng, messages.echo(message), 1, number)
    if kind < 0.87:  # says that there is no data set, and sends one; or the other way round
        command = messages.store(uid, message, data_set=0x0101) if rng.random() < 0.5 else messages.echo(message)
        return [*_fragments(rng, command, 1, number), *_fragments(rng, _payload(rng), 0, number)]
    field_ = rng.choice(
        (0x0FFF, 0x0020, 0x0021, 0x0130, 0x0140, 0x0100, 0x8001, 0x8100, 0x8130, rng.randrange(0x10000))
    )
    numbers, values = (0x0002, 0x0120, 0x0900, 0x1000, 0x1008, 0x0110), (1, b"", b"1.2", b"x" * 99)
    more = [element(rng.choice(numbers), rng.choice(values)) for _ in range(rng.randint(0, 4))]
    message_id = message if rng.random() < 0.8 else None
    data_set = rng.choice((0x0101, 0x0101, 0, 1))
    command = messages.command(field_, *more, message=message_id, data_set=data_set)
    content = _fragments(rng, _payload(rng), 0, number) if data_set != 0x0101 else []
    return [*_fragments(rng, command, 1, number), *content]


def _pack(rng: Random, items: list[bytes]) -> list[bytes]:
    """Return PDUs of one or more PDVs each."""
    pdus, at = [], 0
    while at < len(items):
        taken = rng.choice((1, 1, 1, 2, 3, 9))
        pdus.append(pdu(0x04, b"".join(items[at : at + taken])))
        at += taken
    return pdus


def _damage(rng: Random, pdus: list[bytes]) -> list[bytes]:
    """Do one harm to a list of PDUs."""
    at = rng.randrange(len(pdus))
    if rng.random() < 0.5:
        return [*pdus[:at], _damage_bytes(rng, bytearray(pdus[at])), *pdus[at + 1 :]]
    inserted = [
        pdu(rng.choice((0, 8, 9, 0x47, 0xFF)), rng.randbytes(rng.choice((0, 1, 40)))),
        rng.choice((RELEASE, ABORT, REQUEST, pdu(2, bytes(68)), pdu(3, bytes(4)), pdu(6, bytes(4)))),
        rng.choice(pdus),
    ]
    kept = [] if rng.random() < 0.5 else [pdus[at]]
    return [*pdus[:at], *rng.choices([[], *([one] for one in inserted)])[0], *kept, *pdus[at + 1 :]]


def _damage_bytes(rng: Random, one: bytearray) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        one[2:6] = struct.pack(">I", rng.choice(LENGTHS))
    elif kind == 1 and len(one) > 12:
        one[6:10] = struct.pack(">I", rng.choice(LENGTHS))
    elif kind == 2 and len(one) > 12:
        one[rng.choice((10, 11))] = rng.randrange(256)
    elif kind == 3:
        del one[rng.randrange(len(one)) :]
    else:
        one[rng.randrange(len(one))] ^= 1 << rng.randrange(8)
    return bytes(one)


def make_peer(number: int) -> bytes:
    """Return what peer number n sends behind its association request."""
    rng = random.Random(number)
    items = [_message(rng, f"1.2.{number}.{at}") for at in range(rng.randint(1, 4))]
    if rng.random() < 0.1:  # two messages whose fragments alternate
        items = [[one for pair in zip(*items[:2], strict=False) for one in pair]] if len(items) > 1 else items
    pdus = [one for message in items for one in _pack(rng, message)] + [RELEASE] * (rng.random() < 0.6)
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 3))):
        pdus = [one for one in pdus if one]
        if pdus:
            pdus = _damage(rng, pdus)
    return b"".join(pdus)


def make_request(number: int) -> bytes:
    """Return a damaged association request."""
    rng = random.Random(number)

    def pick(sound: Any, *odd: Any) -> Any:
        return rng.choice(odd) if rng.random() < 0.1 else sound

    ids = [pick(2 * at + 1, at, 1) & 0xFF for at in range(pick(rng.choice((1, 2, 128)), 0, 200))]
    odd = rng.random() < 0.1
    items = [
        context(number, pick(CT, "", "1.2.3"), *["1.2.840.10008.1.2"] * pick(1, 0, 9))
        if odd
        else context(2 * at + 1 & 0xFF)
        for at, number in enumerate(ids)
    ]
    kinds = (0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x99)
    more = [messages.item(rng.choice(kinds), rng.randbytes(rng.choice((0, 4, 40)))) for _ in range(pick(0, 1, 2, 3))]
    called, calling = pick(TITLE, "", "OTHER", "A\nB"), pick(CALLER, "", "OTHER", "X\r\nERROR", "\x7f\\")
    sent = bytearray(
        messages.request(calling, called, *items, user_information(pick(16384, 0, 1, 7, 64, LARGEST), *more))
    )
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        sent[rng.randrange(6 if rng.random() < 0.9 else 0, len(sent))] = rng.choice((0, 1, 0x50, 0x7F, 0xFF))
    return bytes(sent)


def read_answers(connection: socket.socket) -> tuple[list[int], Answers]:
    """Read to the end; return the types of the PDUs, and the answers in them."""
    received = bytearray()
    with suppress(ConnectionResetError):  # a connection that the peer aborted is closed without reading the rest
        while piece := connection.recv(65536):
            received += piece
    kinds, answers, at, had = [], Answers(), 0, b""
    while at < len(received):
        kind, length = struct.unpack_from(">BxI", received, at)
        content = bytes(received[at + 6 : at + 6 + length])
        assert len(content) == length, "a PDU is cut"
        kinds.append(kind)
        if kind == 4:
            had += content[6:]
            if content[5] & 2:
                answers.responses.append((content[4], _value(had, 0x0120), _value(had, 0x0900)))
                had = b""
        elif kind in {6, 7}:
            answers.end = "released" if kind == 6 else f"abort {content[2]} {content[3]}"
        at += 6 + length
    return kinds, answers


def _value(command: bytes, wanted: int) -> int:
    at = 0
    while at < len(command):
        _, number, length = struct.unpack_from("<HHI", command, at)
        if number == wanted:
            return int.from_bytes(command[at + 8 : at + 8 + length], "little")
        at += 8 + length
    raise AssertionError(f"a response has no element (0000,{wanted:04X})")


@dataclass
class Tally:
    """What the peers met.

    Attributes
    ----------
    ends
        How often each end came.
    differences
        A line for each peer whose answers are not those of the model.
    stored
        The hashes of the data sets that were acknowledged.
    unread
        Those of peers that died before they could read the answer.
    """

    ends: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    stored: set[bytes] = field(default_factory=set)
    unread: set[bytes] = field(default_factory=set)


def _exchange(node: Node, sent: bytes, rng: Random) -> tuple[list[int], Answers]:
    """Send everything, in pieces at times, close that side, and read."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as connection:
        with suppress(OSError):  # the edge may have closed it by now
            cut = rng.randint(0, len(sent))
            for piece in (sent[:cut], sent[cut:]) if rng.random() < 0.3 else (sent,):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        return read_answers(connection)


def _try_messages(node: Node, number: int, tally: Tally) -> None:
    sent = make_peer(number)
    expected = Model(CONTEXTS).read(sent)
    kinds, answers = _exchange(node, REQUEST + sent, random.Random(-number))
    tally.ends[answers.end] += 1
    tally.stored.update(map(_hash, expected.stored))
    if kinds[:1] != [2] or (answers.responses, answers.end) != (expected.responses, expected.end):
        tally.differences.append(
            f"{number}: {answers.responses} {answers.end}, not {expected.responses} {expected.end}"
        )


def _try_request(node: Node, number: int, tally: Tally) -> None:
    kinds, answers = _exchange(node, make_request(number), random.Random(-number))
    tally.ends[f"request {kinds}"] += 1
    if kinds not in ([], [2], [3], [7], [2, 7]) or answers.end not in {"closed", "abort 0 0", "abort 2 1", "abort 2 2",
                                                                      "abort 2 6"}:  # fmt: skip
        tally.differences.append(f"{number}: request {kinds} {answers.end}")


def _die(node: Node, number: int, tally: Tally) -> None:
    """Reset the connection somewhere in the middle."""
    rng = random.Random(number)
    sent = make_peer(number)
    tally.unread.update(map(_hash, Model(CONTEXTS).read(sent).stored))
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as connection, suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall((REQUEST + sent)[: rng.randrange(len(REQUEST) + len(sent))])


def fuzz(node: Node, numbers: range) -> Tally:
    """Let peers talk to an edge, one after the other, beside an association that must not notice."""
    tally = Tally()
    with _witness(node) as ask:
        for number in numbers:
            match number % 8:
                case 0:
                    _try_request(node, number, tally)
                case 1:
                    _die(node, number, tally)
                case _:
                    _try_messages(node, number, tally)
            if number % 50 == 0:
                ask()
    return tally


@contextmanager
def _witness(node: Node) -> Iterator[object]:
    """Yield what sends an echo on an association that stays open, and checks its answer."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as connection:
        connection.sendall(REQUEST)
        assert connection.recv(65536)[0] == 2

        def ask() -> None:
            connection.sendall(data(3, messages.echo(11), number=5))
            assert connection.recv(65536)[0] == 4, "another association was harmed"

        yield ask
        connection.sendall(RELEASE)
        assert connection.recv(65536)[0] == 6


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def find_stored(node: Node) -> set[bytes]:
    """Return the hashes of the data sets in the spool."""
    return {_hash(data_set_of(Path(entry.path).read_bytes())) for entry in node.spool.waiting()}


def judge_spool(node: Node, tally: Tally) -> list[str]:
    """Return what is wrong with the spool: it has each acknowledged object, and no other but those of dead peers."""
    found = find_stored(node)
    lost, more = len(tally.stored - found), len(found - tally.stored - tally.unread)
    return [f"{lost} acknowledged objects are lost, {more} that were not are stored"] if lost or more else []


@dataclass(frozen=True)
class Traces:
    """What a process holds."""

    threads: int
    files: int

    @classmethod
    def of(cls, node: Node) -> Traces:
        """Return it for an edge that has opened all of its files."""
        node.book.add([])
        node.book.count()
        return cls.now()

    @classmethod
    def now(cls) -> Traces:
        """Return it."""
        return cls(threading.active_count(), sum(1 for _ in Path("/proc/self/fd").iterdir()))


def settles(node: Node, before: Traces) -> bool:
    """Return whether all that the peers took is given back within a few seconds."""
    end = time.monotonic() + SETTLED_SECONDS
    while time.monotonic() < end:
        now = Traces.now()
        left = list(node.spool.incoming.iterdir())
        if now.threads <= before.threads and now.files <= before.files and not left:
            return True
        time.sleep(0.05)
    return False


def main() -> None:
    """Let as many peers talk as MUTATIONS says, and end with 1 if one met what it must not."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")  # of pydicom
    only, count = os.environ.get("ONLY"), int(os.environ.get("MUTATIONS") or 20_000)
    numbers = range(int(only), int(only) + 1) if only else range(count)
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    spooling = {"store": "spool", "spool": {"redundant": True}}
    with tempfile.TemporaryDirectory() as folder, edge(Path(folder), "http://127.0.0.1:9", **spooling) as node:
        before, memory = Traces.of(node), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        tally = fuzz(node, numbers)
        problems = list(tally.differences)
        problems += [] if settles(node, before) else [f"left behind: {Traces.now()} after {before}"]
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) // 1024
        problems += judge_spool(node, tally)
    lines = [f"{times:>9,} {end}" for end, times in tally.ends.most_common()]
    seconds = time.monotonic() - began
    lines.append(
        f"{len(numbers):,} peers in {seconds:.0f} s, {len(tally.stored):,} objects, {grown} MiB more at the peak"
    )
    sys.stdout.write("\n".join([*lines, *(problems[:20] or ["no difference"]), ""]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
