"""The edge between real peers and S3: what is acknowledged is there, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, Verification

from airlock.records import study_key
from airlock_edge.book import State
from airlock_edge.commitment.reactor import guard_responses
from tests.dicom_files import ct, sop_uid, study_uid
from tests.servers.edge import CALLER, TITLE, data_set_of, edge
from tests.waiting import until

pytestmark = pytest.mark.slow
KEY = re.compile(r"in/north/\d{4}-\d\d-\d\d/([0-9a-f]{16})/[0-9a-f]{32}\.dcm").fullmatch


def read(body: bytes) -> Any:
    return pydicom.dcmread(io.BytesIO(body))


def send(port: int, *files: bytes, title: str = CALLER, called: str = TITLE) -> list[int]:
    """Send files with pynetdicom, and return the statuses."""
    sets = [read(file) for file in files]
    ae = AE(title)
    for each in sets:
        ae.add_requested_context(each.SOPClassUID, each.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    assert association.is_established
    guard_responses(association)
    statuses = [association.send_c_store(each).Status for each in sets]
    association.release()
    return statuses


def test_an_object_is_on_s3_with_its_checksum_when_success_is_sent(endpoint, objects, tmp_path):
    file = ct()
    with edge(tmp_path, endpoint) as node:
        assert send(node.port, file) == [0x0000]
        [(key, body)] = objects.bodies().items()
        [row] = node.book.find(sop_uid(1, 1, 1), CTImageStorage)
    assert KEY(key)[1] == study_key(study_uid(1))
    assert data_set_of(body) == encode(read(file), False, True)
    assert objects.checksum(key) == base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert (row.s3_key, row.state, row.sha256) == (key, State.DURABLE, hashlib.sha256(body).hexdigest())
    assert read(body).file_meta.TransferSyntaxUID == read(file).file_meta.TransferSyntaxUID


def test_storescu_is_a_peer(endpoint, objects, tmp_path):
    (tmp_path / "a.dcm").write_bytes(ct())
    with edge(tmp_path, endpoint) as node:
        command = ["storescu", "-aet", CALLER, "-aec", TITLE, "127.0.0.1", str(node.port), tmp_path / "a.dcm"]
        subprocess.run(command, check=True, timeout=60)
    [body] = objects.bodies().values()
    assert read(body).SOPInstanceUID == sop_uid(1, 1, 1)


def test_verification_succeeds(endpoint, objects, tmp_path):
    ae = AE(CALLER)
    ae.add_requested_context(Verification)
    with edge(tmp_path, endpoint) as node:
        association = ae.associate("127.0.0.1", node.port, ae_title=TITLE)
        guard_responses(association)
        assert association.send_c_echo().Status == 0x0000
        association.release()


@pytest.mark.proof
def test_a_process_uploads_spooled_objects(endpoint, objects, tmp_path):
    with edge(tmp_path, endpoint, uploads=True, store="spool", spool={"redundant": True}) as node:
        assert send(node.port, ct(), ct(instance=2)) == [0x0000, 0x0000]
        until("both are on S3", lambda: len(objects.bodies()) == 2)
        until("the spool is empty", lambda: not list(node.spool.waiting()))
        states = {row.state for n in (1, 2) for row in node.book.find(sop_uid(1, 1, n), CTImageStorage)}
    assert states == {State.DURABLE}


def test_a_quiet_folder_gets_a_manifest_that_counts_it(endpoint, objects, tmp_path, monkeypatch):
    noon = SimpleNamespace(now=lambda zone: datetime(2026, 1, 31, 12, tzinfo=zone))
    monkeypatch.setattr("airlock_edge.keys.datetime", noon)  # at midnight the two would come into two folders
    with edge(tmp_path, endpoint, manifests={"quiet_seconds": 0.5}) as node:
        send(node.port, ct(), ct(instance=2))
        until("all is in a manifest", lambda: not node.book.open_deliveries())
    bodies = objects.bodies()
    [key] = [key for key in bodies if key.endswith("/delivery.json")]
    files = {name: body for name, body in bodies.items() if name != key}
    folder = key.rpartition("/")[0]
    assert json.loads(bodies[key]) == {
        "objects": 2,
        "bytes": sum(map(len, files.values())),
        "studies": {study_uid(1): 2},
        "files": {name.removeprefix(f"{folder}/"): study_uid(1) for name in files},
    }
