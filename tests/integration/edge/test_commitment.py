"""Storage Commitment between the edge and real peers: one result per request, with the complete set, and kept."""

from __future__ import annotations

import io
import json
import shutil
import signal
import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pydicom
import pytest
from pynetdicom.sop_class import CTImageStorage, MRImageStorage

from tests.dicom_files import ct, sop_uid
from tests.servers import orthanc as orthancs
from tests.servers.certificates import Authority
from tests.servers.committed import Peer, listening
from tests.servers.edge import BUCKET, CALLER, Objects, edge, edge_process, upload_spool
from tests.servers.ports import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow
FAILED, UNKNOWN, CONFLICT = 0x0110, 0x0112, 0x0119
UIDS = [sop_uid(1, 1, number) for number in range(1, 6)]


@pytest.fixture(autouse=True)
def short_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlock_edge.commitment.service._LONGEST_NAP", 0.3)


class Airlock:
    """What Airlock's task route does, by hand."""

    def __init__(self, endpoint: str) -> None:
        self.sqs = boto3.client("sqs", endpoint_url=endpoint, region_name="us-east-1")
        self.url = self.sqs.create_queue(QueueName="edge")["QueueUrl"]

    def tell(self, key: str, state: str, *order: int) -> None:
        """Tell the edge about an object."""
        said = {"bucket": BUCKET, "key": key, "state": state, "disposition": state, "reason": None}
        content = {"schema": "airlock.told/1", "pipeline": "nightly", "objects": [said | {"order": order or (1, 1)}]}
        self.sqs.send_message(QueueUrl=self.url, MessageBody=json.dumps(content))

    def waits(self) -> int:
        """Return how many messages wait."""
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])["Attributes"]
        return sum(int(value) for name, value in found.items() if name.startswith("ApproximateNumberOfMessages"))


@pytest.fixture
def airlock(endpoint: str, objects: Objects) -> Airlock:
    return Airlock(endpoint)


def sections(airlock: Airlock, peer: Peer, **changes: Any) -> dict[str, Any]:
    """Return the sections of the edge's settings."""
    queue = {"queue_url": airlock.url, "endpoint_url": airlock.url.partition("/123")[0]}
    names = ("commitment_after", "commitment_wait_hours", "reports_tls")
    own = {name: changes.pop(name) for name in names if name in changes}
    reports = {"reports_to": f"127.0.0.1:{peer.listens_on}"} if peer.listens_on else {}
    return {
        "commitment": queue | changes,
        "peers": [{"ae_title": CALLER, "addresses": ["127.0.0.1"], **reports, **own}],
    }


@pytest.fixture
def peer() -> Iterator[Peer]:
    with listening(Peer()) as one:
        yield one


def test_what_is_durable_is_committed_at_once_for_a_peer_that_asks_no_more(endpoint, airlock, peer, tmp_path):
    with edge(tmp_path, endpoint, **sections(airlock, peer, commitment_after="durable")) as node:
        peer.port = node.port
        peer.send(ct())
        transaction, status = peer.ask(UIDS[:1])
        assert status == 0x0000
        assert peer.result(transaction).instances == {UIDS[0]: None}
        assert peer.result(transaction).event_type == 1


@pytest.mark.parametrize("is_killed", [False, True])
def test_other_bytes_in_the_spool_are_not_committed_by_what_was_durable_before(endpoint, airlock, tmp_path, is_killed):
    """The peer deletes what it sent last; the row of that follows the response, or the next start writes it."""
    peer = Peer()
    settings = sections(airlock, peer, commitment_after="durable", commitment_wait_hours=1 / 3600)
    settings |= {"store": "spool", "spool": {"redundant": True}}
    with ExitStack() as running_edges:
        node = running_edges.enter_context(edge(tmp_path, endpoint, **settings))
        peer.port = node.port
        peer.send(ct())
        assert node.recorder.flush()
        assert upload_spool(node) == 1
        if is_killed:
            node.recorder.add = lambda _: 0  # the row is not written before the kill
        peer.send(corrected(ct()))
        if is_killed:
            running_edges.close()
            peer.port = running_edges.enter_context(edge(tmp_path, endpoint, **settings)).port
        with peer.associated() as association:
            transaction, _ = peer.ask(UIDS[:1], association=association)
            assert peer.result(transaction).instances == {UIDS[0]: FAILED}


def corrected(file: bytes) -> bytes:
    """Return the same instance with another header."""
    read, out = pydicom.dcmread(io.BytesIO(file)), io.BytesIO()
    read.PatientComments = "corrected"
    read.save_as(out)
    return out.getvalue()


def test_the_result_comes_on_the_peers_own_association_while_that_is_open(endpoint, airlock, tmp_path):
    peer = Peer()
    with edge(tmp_path, endpoint, **sections(airlock, peer, commitment_after="durable")) as node:
        peer.port = node.port
        peer.send(ct())
        with peer.associated() as association:
            transaction, _ = peer.ask(UIDS[:1], association=association)
            assert peer.result(transaction).association == "own"


def test_one_event_has_the_complete_set_once_airlock_has_decided(endpoint, airlock, peer, tmp_path):
    with edge(tmp_path, endpoint, **sections(airlock, peer, unknown_minutes=0)) as node:
        peer.port = node.port
        peer.send(*(ct(instance=number) for number in (1, 2, 3)))
        transaction, _ = peer.ask(UIDS[:4])
        keys = {uid: node.book.find(uid, CTImageStorage)[0].s3_key for uid in UIDS[:3]}
        airlock.tell(keys[UIDS[0]], "released")
        airlock.tell(keys[UIDS[1]], "imported")
        until("the messages are read", lambda: not airlock.waits())
        assert transaction not in peer.results
        airlock.tell(keys[UIDS[2]], "failed")
        result = peer.result(transaction)
        assert result.event_type == 2
        assert result.instances == {UIDS[0]: None, UIDS[1]: None, UIDS[2]: FAILED, UIDS[3]: UNKNOWN}
        again, _ = peer.ask(UIDS[:3])
        assert peer.result(again).instances[UIDS[2]] == FAILED
        airlock.tell(keys[UIDS[2]], "released", 2, 1)
        until("the message is read", lambda: not airlock.waits())
        third, _ = peer.ask(UIDS[:3])
        assert peer.result(third).event_type == 1
        assert len(peer.results[transaction]) == 1


def test_a_request_survives_a_restart_and_so_does_what_was_told(endpoint, airlock, peer, tmp_path):
    settings = sections(airlock, peer)
    with edge(tmp_path, endpoint, **settings) as node:
        peer.port = node.port
        peer.send(ct(), ct(instance=2))
        keys = [node.book.find(uid, CTImageStorage)[0].s3_key for uid in UIDS[:2]]
        transaction, _ = peer.ask(UIDS[:2])
        airlock.tell(keys[0], "released")
        until("the message is read", lambda: not airlock.waits())
    airlock.tell(keys[1], "released")
    with edge(tmp_path, endpoint, **settings):
        assert peer.result(transaction).event_type == 1


def test_a_result_is_sent_again_until_the_peer_takes_it(endpoint, airlock, peer, tmp_path, monkeypatch):
    monkeypatch.setattr("airlock_edge.commitment.reports._FIRST_PAUSE", 0.1)
    peer.refuses = 2
    with edge(tmp_path, endpoint, **sections(airlock, peer, commitment_after="durable")) as node:
        peer.port = node.port
        peer.send(ct())
        transaction, _ = peer.ask(UIDS[:1])
        assert peer.result(transaction).instances == {UIDS[0]: None}
        assert peer.refuses == 0


def test_a_peer_that_breaks_off_at_one_result_gets_those_behind_it(endpoint, airlock, tmp_path):
    class Fragile(Peer):
        def _take(self, event: Any, association: str) -> tuple[int, None]:
            if event.event_information.TransactionUID == "1.2.3":
                event.assoc.abort()
            return super()._take(event, association)

    with listening(Fragile()) as peer, edge(tmp_path, endpoint, **sections(airlock, peer)) as node:
        peer.port = node.port
        peer.send(ct())
        for transaction in ("1.2.3", "1.2.4"):
            peer.ask(UIDS[:1], transaction)
        airlock.tell(node.book.find(UIDS[0], CTImageStorage)[0].s3_key, "imported")
        assert peer.result("1.2.4").event_type == 1
        until("the edge has its response", lambda: len(node.commitments.store.list_in("decided")) == 1)
        (left,) = node.commitments.store.list_in("decided")
        assert (left.transaction_uid, left.attempts) == ("1.2.3", 1)


def test_a_peer_that_answers_no_role_selection_gets_its_result(endpoint, airlock, tmp_path):
    with (
        listening(Peer(), answers_role=False) as peer,
        edge(tmp_path, endpoint, **sections(airlock, peer)) as node,
    ):
        peer.port = node.port
        peer.send(ct())
        transaction, _ = peer.ask(UIDS[:1])
        airlock.tell(node.book.find(UIDS[0], CTImageStorage)[0].s3_key, "imported")  # its own association has ended
        assert peer.result(transaction).association == "new"


def test_results_are_sent_over_tls_where_the_peer_wants_that(endpoint, airlock, tmp_path):
    authority = Authority(tmp_path, "hospital")
    own, of_peer = authority.issue("edge"), authority.issue("modality")
    files = {"certificate": own.certificate, "key": own.key, "client_authorities": authority.certificate}
    files["revocation_list"] = authority.revoke(authority.issue("stolen"))
    listen = {"address": "127.0.0.1", "port": 0, "tls": {name: str(path) for name, path in files.items()}}
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(of_peer.certificate, of_peer.key)
    server.load_verify_locations(authority.certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(authority.certificate))
    client.load_cert_chain(of_peer.certificate, of_peer.key)
    with listening(Peer(tls=client), tls=server) as peer:
        settings = sections(airlock, peer, reports_tls=True)
        with edge(tmp_path, endpoint, listen=listen, **settings) as node:
            peer.port = node.port
            peer.send(ct())
            transaction, _ = peer.ask(UIDS[:1])
            airlock.tell(node.book.find(UIDS[0], CTImageStorage)[0].s3_key, "imported")
            assert peer.result(transaction).association == "new"


def test_a_killed_edge_answers_what_it_has_taken(endpoint, airlock, peer, tmp_path):
    """The process is killed right after the response; the next one has the request and what was told."""
    settings = sections(airlock, peer)
    # What the killed process's last request takes from the queue comes again after a second.
    airlock.sqs.set_queue_attributes(QueueUrl=airlock.url, Attributes={"VisibilityTimeout": "1"})
    with edge_process(tmp_path, endpoint, **settings) as running:
        peer.port = running.port
        peer.send(ct())
        transaction, status = peer.ask(UIDS[:1])
        running.end(signal.SIGKILL)
        assert status == 0x0000
    (key,) = Objects(endpoint).bodies()
    airlock.tell(key, "released")
    with edge_process(tmp_path, endpoint, **settings) as running:
        assert peer.result(transaction).instances == {UIDS[0]: None}
        assert running.end() == 0


def test_a_result_waits_for_a_peer_that_is_away(endpoint, airlock, tmp_path):
    """Without an address it is sent on the next association on which the peer asks for something."""
    peer = Peer()
    with edge(tmp_path, endpoint, **sections(airlock, peer)) as node:
        peer.port = node.port
        peer.send(ct(), ct(instance=2))
        first, _ = peer.ask(UIDS[:1])
        for uid in UIDS[:2]:  # its association has ended: before, the result could be sent on that
            airlock.tell(node.book.find(uid, CTImageStorage)[0].s3_key, "imported")
        until("a try has failed", lambda: [one for one in node.commitments.store.list_in("decided") if one.attempts])
        with peer.associated() as association:
            second, _ = peer.ask(UIDS[1:2], association=association)
            assert {peer.result(one).association for one in (first, second)} == {"own"}


def test_requests_that_cannot_be_taken_are_refused_with_their_status(endpoint, airlock, peer, tmp_path):
    with edge(tmp_path, endpoint, **sections(airlock, peer)) as node:
        peer.port = node.port
        peer.send(ct())
        transaction, status = peer.ask(UIDS[:1])
        assert status == 0x0000
        assert peer.ask(UIDS[:1], transaction)[1] == 0x0000, "the same request again"
        assert peer.ask(UIDS[:2], transaction)[1] == 0x0115, "the Transaction UID names another request"
        assert peer.ask(UIDS[:1], action_type=2)[1] == 0x0123
        assert peer.ask(UIDS[:1], instance_uid="1.2.3")[1] == 0x0112
        assert peer.ask([])[1] == 0x0115
        assert [one.state for one in node.commitments.store.list_in("waiting")] == ["waiting"]


def test_an_instance_of_another_class_is_a_conflict(endpoint, airlock, peer, tmp_path):
    with edge(tmp_path, endpoint, **sections(airlock, peer, commitment_after="durable", unknown_minutes=0)) as node:
        peer.port = node.port
        peer.send(ct())
        transaction, _ = peer.ask(UIDS[:1], sop_class=MRImageStorage)
        assert peer.result(transaction).instances == {UIDS[0]: CONFLICT}


def test_what_is_not_decided_in_time_is_answered_a_failure_once(endpoint, airlock, peer, tmp_path):
    settings = sections(airlock, peer, commitment_wait_hours=1 / 3600)
    with edge(tmp_path, endpoint, **settings) as node:
        peer.port = node.port
        peer.send(ct())
        transaction, _ = peer.ask(UIDS[:1])
        assert peer.result(transaction).instances == {UIDS[0]: FAILED}
        airlock.tell(node.book.find(UIDS[0], CTImageStorage)[0].s3_key, "released")
        until("the message is read", lambda: not airlock.waits())
        again, _ = peer.ask(UIDS[:1])
        assert peer.result(again).event_type == 1
        assert len(peer.results[transaction]) == 1


@pytest.mark.skipif(
    shutil.which("Orthanc") is None, reason="Orthanc is not installed (Debian: apt-get install orthanc)"
)
class TestOrthanc:
    """Orthanc as the hospital's PACS: it forwards images to the edge and asks for commitment over its REST API."""

    def test_it_gets_one_result_with_what_is_committed_and_what_is_not(self, endpoint, airlock, tmp_path):
        port = free_port()
        dicom = {"DicomServerEnabled": True, "DicomPort": port, "DicomAet": CALLER, "Plugins": []}
        settings = sections(airlock, Peer(listens_on=port), unknown_minutes=0)
        with orthancs.orthanc(**dicom) as server, edge(tmp_path, endpoint, **settings) as node:
            known = {"AET": "AIRLOCK", "Host": "127.0.0.1", "Port": node.port, "AllowStorageCommitment": True}
            put(server, "/modalities/edge", known)
            names = [post(server, "/instances", ct(instance=number))["ID"] for number in (1, 2, 3)]
            post(server, "/modalities/edge/store", names[:2])
            asked = post(server, "/modalities/edge/storage-commitment", {"Resources": names})["Path"]
            keys = [node.book.find(uid, CTImageStorage)[0].s3_key for uid in UIDS[:2]]
            airlock.tell(keys[0], "imported")
            airlock.tell(keys[1], "failed")
            answer = until("Orthanc has the result", lambda: told(server, asked))
        assert answer["Status"] == "Failure"
        assert [one["SOPInstanceUID"] for one in answer["Success"]] == UIDS[:1]
        failures = {one["SOPInstanceUID"]: one["FailureReason"] for one in answer["Failures"]}
        assert failures == {UIDS[1]: FAILED, UIDS[2]: UNKNOWN}


def told(server: orthancs.Orthanc, asked: str) -> dict[str, Any] | None:
    """Return the result that Orthanc has; None while it waits."""
    answer = server.ask(asked).json()
    return None if answer["Status"] == "Pending" else answer


def put(server: orthancs.Orthanc, path: str, content: Any) -> None:
    httpx.put(server.root + path, auth=(orthancs.USER, orthancs.PASSWORD), json=content).raise_for_status()


def post(server: orthancs.Orthanc, path: str, content: Any) -> Any:
    body = {"content": content} if isinstance(content, bytes) else {"json": content}
    answer = httpx.post(server.root + path, auth=(orthancs.USER, orthancs.PASSWORD), timeout=60, **body)
    return answer.raise_for_status().json()
