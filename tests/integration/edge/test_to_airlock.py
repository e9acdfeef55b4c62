"""From a modality over the edge and a whole run of Airlock to the commitment of each instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import pytest
from pynetdicom.sop_class import CTImageStorage

from tests.chain import Chain, pipeline
from tests.dicom_files import ct, sop_uid
from tests.servers.committed import Peer, listening
from tests.servers.edge import CALLER, edge
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock.pipelines import ImagingPipeline
    from airlock_edge.node import Node
    from tests.chain import Place

pytestmark = pytest.mark.slow
FAILED, UNKNOWN = 0x0110, 0x0112
RELEASED, HELD, QUARANTINED = sop_uid(1, 1, 1), sop_uid(2, 1, 1), sop_uid(2, 1, 2)
NEVER_SENT = sop_uid(9, 9, 9)


@pytest.fixture
def queue_url(place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    sqs = boto3.client("sqs", endpoint_url=place.s3_endpoint, region_name="us-east-1")
    return str(sqs.create_queue(QueueName="edge")["QueueUrl"])


@pytest.fixture
def peer(place: Place, queue_url: str, tmp_path: Path) -> Iterator[tuple[Peer, Node]]:
    with listening(Peer()) as one:
        asked = {"commitment_after": "imported", "reports_to": f"127.0.0.1:{one.listens_on}"}
        commitment = {"queue_url": queue_url, "endpoint_url": place.s3_endpoint, "unknown_minutes": 0}
        peers = [{"ae_title": CALLER, "addresses": ["127.0.0.1"], **asked}]
        with edge(tmp_path, place.s3_endpoint, commitment=commitment, peers=peers) as node:
            one.port = node.port
            yield one, node


def settings(queue_url: str, **changes: Any) -> ImagingPipeline:
    return pipeline(edge={"queue_url": queue_url, "region_name": "us-east-1"}, **changes)


def test_released_held_quarantined_and_unknown_instances_have_one_result(
    place: Place, queue_url: str, peer: tuple[Peer, Node]
) -> None:
    modality, node = peer
    modality.send(ct(1), ct(2), ct(2, instance=2, StudyDescription="a long description"))
    asked, _ = modality.ask([RELEASED, HELD, QUARANTINED, NEVER_SENT])
    short = settings(queue_url, limits={"element_lengths": {"StudyDescription": 10}})
    report = Chain(place, short, run_id="manual__first").run()
    assert report["dispositions"] == {"released": 1, "held": 1, "quarantined": 1}
    result = modality.result(asked)
    assert result.event_type == 2
    assert result.instances == {RELEASED: None, HELD: None, QUARANTINED: FAILED, NEVER_SENT: UNKNOWN}
    assert len(modality.results[asked]) == 1

    redrive = {"redrive_why": "the limit was too low", "redrive_by": "ada", "redrive_run": "manual__first"}
    Chain(place, settings(queue_url), run_id="manual__again", params=redrive).run()
    (key,) = (row.s3_key for row in node.book.find(QUARANTINED, CTImageStorage))
    until("the edge knows it", lambda: _told(node, key) == "released")
    assert len(modality.results[asked]) == 1, "the Transaction UID is closed"
    again, _ = modality.ask([RELEASED, HELD, QUARANTINED])
    assert modality.result(again).event_type == 1


def _told(node: Node, key: str) -> str | None:
    found = node.commitments.store._read("SELECT state FROM told WHERE s3_key = ?", key)
    return found[0][0] if found else None
