"""dcmtk, Orthanc and pynetdicom send the sample: every object is stored byte for byte as it went over the wire."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)
from pynetdicom import AE, build_context

from airlock_edge.commitment.reactor import guard_responses
from airlock_edge.part10 import make_header
from airlock_local.sample import write_sample
from tests.servers.dicom_tap import Sent, dicom_tap
from tests.servers.edge import CALLER, TITLE, Objects, data_set_of, edge
from tests.servers.orthanc import PASSWORD, USER, orthanc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.proof]

PRIVATE = "2.25.124732341089406225480463990195889374684"  # of a file of the sample
SYNTAXES = (
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
    *(RLELossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEG2000Lossless),
)
PROPOSE = dict(zip(SYNTAXES, ("-xi", "-xe", "-xb", "-xd", "-xr", "-xy", "-xs", "-xv"), strict=True))


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> dict[str, list[Path]]:
    """Return the files of the sample that are DICOM, by their transfer syntax."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    found: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            if ds.SOPClassUID and ds.SOPInstanceUID and "DirectoryRecordSequence" not in ds:
                found.setdefault(ds.file_meta.TransferSyntaxUID, []).append(path)
        except Exception:  # noqa: BLE001 - a damaged file of the sample, which no peer can send
            continue
    assert set(found) >= set(SYNTAXES)
    return found


def check(sent: Iterable[Sent], objects: Objects) -> Counter[str]:
    """Compare what went over the wire with what is on S3, and return how many objects there were by transfer syntax."""
    sent = list(sent)
    classes = {data_set_of(body): body for body in objects.bodies().values()}
    assert {one.data_set for one in sent} == set(classes)
    for one in sent:
        meta = pydicom.dcmread(
            pydicom.filebase.DicomBytesIO(classes[one.data_set][:2000]), stop_before_pixels=True
        ).file_meta
        head = make_header(meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID)
        assert classes[one.data_set].startswith(head)
    return Counter(one.transfer_syntax for one in sent)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_storescu(endpoint, objects, sample, tmp_path, syntax):
    with edge(tmp_path, endpoint) as node, dicom_tap(node.port) as tap:
        command = ["storescu", "-nh", "-R", PROPOSE[syntax], "-aet", CALLER, "-aec", TITLE, "127.0.0.1", str(tap.port)]
        subprocess.run([*command, *sample[syntax]], check=False, timeout=300)
        tap.close()
        counted = check(tap.sent(), objects)
    assert counted[syntax]


def test_dcmsend_sends_all_in_one_association(endpoint, objects, sample, tmp_path):
    files = [path for paths in sample.values() for path in paths]
    with edge(tmp_path, endpoint, private_transfer_syntaxes=[PRIVATE]) as node, dicom_tap(node.port) as tap:
        command = ["dcmsend", "-nh", "-nuc", "-dn", "-aet", CALLER, "-aec", TITLE, "127.0.0.1", str(tap.port)]
        subprocess.run([*command, *files], check=False, timeout=300)
        tap.close()
        counted = check(tap.sent(), objects)
    # It converts uncompressed files itself: in each of its contexts the edge takes the first syntax that it offers.
    assert set(counted) >= {ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, *SYNTAXES[4:]}


def test_pynetdicom(endpoint, objects, sample, tmp_path):
    with edge(tmp_path, endpoint) as node, dicom_tap(node.port) as tap:
        statuses = Counter(status for syntax in SYNTAXES for status in send(tap.port, syntax, sample[syntax]))
        tap.close()
        counted = check(tap.sent(), objects)
    assert set(counted) == set(SYNTAXES)
    assert set(statuses) == {0}


def send(port: int, syntax: str, paths: list[Path]) -> Iterator[int]:
    """Send files of one transfer syntax with pynetdicom, from the disk as they are."""
    ae = AE(CALLER)
    sets = {path: pydicom.dcmread(path) for path in paths}
    ae.requested_contexts = [build_context(uid, syntax) for uid in {each.SOPClassUID for each in sets.values()}]
    association = ae.associate("127.0.0.1", port, ae_title=TITLE)
    guard_responses(association)
    for each in sets.values():
        yield int(association.send_c_store(each).Status)
    association.release()


@pytest.mark.skipif(
    shutil.which("Orthanc") is None, reason="Orthanc is not installed (Debian: apt-get install orthanc)"
)
def test_orthanc_forwards_what_it_has(endpoint, objects, sample, tmp_path):
    with edge(tmp_path, endpoint) as node, dicom_tap(node.port) as tap:
        nodes: dict[str, Any] = {"edge": {"AET": TITLE, "Host": "127.0.0.1", "Port": tap.port}}
        with (
            orthanc(DicomModalities=nodes, DicomAet=CALLER, Plugins=[], TranscodeDicomProtocol=False) as pacs,
            httpx.Client(base_url=pacs.root, auth=(USER, PASSWORD), timeout=120) as client,
        ):
            for path in (path for syntax in SYNTAXES for path in sample[syntax][:20]):
                client.post("/instances", content=path.read_bytes())
            names = client.get("/instances").json()
            assert client.post("/modalities/edge/store", json=names).is_success
        tap.close()
        counted = check(tap.sent(), objects)
        assert counted.total() == len(names)
        assert set(counted) == set(SYNTAXES)
