"""Nothing that names a patient leaves the edge but in objects: not by logs at debug level, metrics, keys or names."""

from __future__ import annotations

import io
import logging
import socket
from typing import TYPE_CHECKING

import pytest
from benchmarks.dicom_sender import CT, EXPLICIT, Item, RefusedError, Sender, encode_proposal
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from tests.canaries import CANARY, FOLDER, NAMES
from tests.dicom_files import ct
from tests.servers.edge import BUCKET, CALLER, START_PATIENCE, TITLE, data_set_of, edge, edge_process, upload_spool
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.edge import Objects

pytestmark = pytest.mark.slow
PATIENT = dict.fromkeys(("PatientID", "PatientName", "AccessionNumber", "StudyDescription", "StudyID"), CANARY)
ODD = 3  # of the odd messages make an object; the one with a class of its own does, too
HOSTILE = (b"\x1b[31m\r\nERROR \xff'\"", b"a\nb\tc\x00\x07\x7f{}%s\\", b'"} 1\nairlock_x 2')
CONTROL = {chr(code) for code in (*range(32), 127, *range(128, 160))}


def make(number: int, study: int = 1) -> Item:
    return Item(CT, f"{NAMES[1]}.{study}.1.{number}", EXPLICIT, (data_set_of(ct(study, 1, number, **PATIENT)),))


@pytest.fixture
def seen() -> Iterator[io.StringIO]:
    """Everything that the edge, botocore and urllib3 log at debug level; the command silences the DICOM libraries."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    loggers = [logging.getLogger(name) for name in ("airlock_edge", "botocore", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield text
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.parametrize("store", ["s3", "spool"])
def test_no_identifier_is_seen_outside_the_objects(
    endpoint: str, objects: Objects, tmp_path: Path, seen: io.StringIO, store: str
) -> None:
    changes = {"store": store, "spool": {"redundant": True}, "manifests": {"quiet_seconds": 0.2}}
    with edge(tmp_path, endpoint, **changes) as node:
        send_all(node.port)
        names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
        for entry in list(node.spool.waiting())[:1]:  # a file that the disk has changed
            (node.spool.ready / entry.name).write_bytes(CANARY.encode() * 100)
        upload_spool(node)
        metrics = node.metrics.page()
    keys = list(objects.bodies())
    heads = [objects.client.head_object(Bucket=BUCKET, Key=key) for key in keys]
    assert keys
    assert "the association request cannot be read" in seen.getvalue()
    assert "Making request for OperationModel(name=PutObject)" in seen.getvalue(), "botocore logs at debug level"
    places = {"the log": seen.getvalue(), "metrics": metrics, "names of files": str(names), "keys": str(keys)}
    places["metadata of objects"] = str(heads)
    for place, text in places.items():
        for name in NAMES:
            lines = [line for line in text.lower().splitlines() if name in line]
            assert not lines, f"{place} has {name} in {len(lines)} lines, as {lines[0][:300]}"


def test_no_identifier_is_in_the_log_of_the_processes(endpoint: str, objects: Objects, tmp_path: Path) -> None:
    changes = {"store": "spool", "spool": {"redundant": True}}
    with edge_process(tmp_path, endpoint, **changes) as running:
        send_all(running.port)
        spool = running.state / "spool"
        until("the uploading process has read all", lambda: not list(spool.iterdir()), START_PATIENCE)
        running.end()
        log = running.log
    assert len(objects.bodies()) >= ODD + 4
    assert log.count("opened it") > ODD
    assert not [line for line in log.splitlines() if any(name in line.lower() for name in NAMES)]


def send_all(port: int) -> None:
    """Send good objects and all kinds of bad messages, each with names of a patient in it."""
    send_good(port)
    break_off(port)
    for item in (
        Item(CT, FOLDER, EXPLICIT, make(5).data_set),  # names in place of UIDs
        Item(FOLDER, make(6).sop_instance_uid, EXPLICIT, make(6).data_set),
        Item(CT, make(7).sop_instance_uid, EXPLICIT, (CANARY.encode() * 50,)),  # not a data set
        Item(CT, make(8).sop_instance_uid, EXPLICIT, (make(8).data_set[0][:300],)),  # cut off
    ):
        send_odd(port, item)
    for content in (
        propose_with_identity(),
        FOLDER.encode() * 100,
        b"\x01\0\0\0\0\x50" + FOLDER.encode() * 10,
        encode_proposal(TITLE, CALLER, [(CT, EXPLICIT)]) + b"\x04\0\0\0\0\x40" + FOLDER.encode() * 10,
        encode_proposal(TITLE, CALLER, [(CT, EXPLICIT)]).replace(CT.encode(), FOLDER.encode().ljust(len(CT))),
    ):
        send_bytes(port, content)


def send_good(port: int) -> None:
    with Sender(("127.0.0.1", port), TITLE, [(CT, EXPLICIT)], calling=CALLER) as sender:
        assert [sender.store(make(number, study)) for study in (1, 2) for number in (1, 2)] == [0] * 4


def propose_with_identity() -> bytes:
    """Return a request with a user's name and password (PS3.7 annex D.3.3.7)."""
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.secondary_field = 2, CANARY.encode(), CANARY.encode()
    return encode_proposal(TITLE, CALLER, [(CT, EXPLICIT)], identity)


def break_off(port: int) -> None:
    sender = Sender(("127.0.0.1", port), TITLE, [(CT, EXPLICIT)], calling=CALLER)
    sender.send(make(4)._replace(data_set=(make(4).data_set[0], b"\0")), cut=True)
    sender.close()


def send_odd(port: int, item: Item) -> None:
    """Send an object under a context of CT, whatever its own class says; the edge may answer as it likes."""
    with Sender(("127.0.0.1", port), TITLE, [(CT, EXPLICIT)], calling=CALLER) as sender:
        sender.store(item, context=(CT, EXPLICIT))


def send_bytes(port: int, content: bytes) -> None:
    """Send bytes and wait for the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_ae_title_makes_no_line_of_its_own(
    endpoint: str, objects: Objects, tmp_path: Path, seen: io.StringIO, title: bytes
) -> None:
    del objects
    with edge(tmp_path, endpoint) as node:
        for calling, called in ((title, TITLE.encode()), (CALLER.encode(), title)):
            request = encode_proposal("C" * 16, "D" * 16, [(CT, EXPLICIT)])
            request = request.replace(b"D" * 16, calling.ljust(16)[:16]).replace(b"C" * 16, called.ljust(16)[:16])
            send_bytes(node.port, request)
        with pytest.raises(RefusedError):
            Sender(("127.0.0.1", node.port), TITLE, [(CT, EXPLICIT)], calling="NOBODY")
        page = node.metrics.page()
    lines = seen.getvalue().splitlines()
    assert any("refused" in line or "cannot be read" in line for line in lines)
    assert not [line for line in lines if "botocore" not in line and CONTROL & set(line)]
    assert all(line.startswith("airlock_edge_") for line in page.splitlines())
    assert not CONTROL & set(page.replace("\n", ""))
