"""From a peer to a contract: Airlock takes what the edge has closed, and compares what came with what was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock.records import study_key
from tests.chain import Chain, pipeline
from tests.dicom_files import ct, sop_uid, study_uid
from tests.servers.edge import CALLER, TITLE, data_set_of, edge
from tests.servers.raw_peer import raw_peer
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from airlock_edge.node import Node
    from tests.chain import Place

pytestmark = pytest.mark.slow
LINE = pipeline(receive={"mode": "folder_manifests"})


def store(node: Node, study: int, *instances: int) -> None:
    with raw_peer(node.port) as peer:
        assert peer.ask(CALLER, TITLE)[0] == 2
        for instance in instances:
            peer.send_store(sop_uid(study, 1, instance), data_set_of(ct(study, 1, instance)))
            assert peer.read_status() == 0


def folder_of(place: Place, study: int) -> list[str]:
    return [key for key in place.keys("archive") if f"/{study_key(study_uid(study))}/" in key]


def is_closed(place: Place, *studies: int) -> bool:
    return all(any(key.endswith("/delivery.json") for key in folder_of(place, study)) for study in studies)


def completeness(place: Place) -> dict[str, tuple[str, int]]:
    found = {one["study_key"]: one["completeness"] for one in place.contracts()}
    return {key: (one["state"], one["declared"]) for key, one in found.items()}


def test_closed_studies_are_taken_and_counted(place: Place, tmp_path: Path) -> None:
    whole, short, late = (study_key(study_uid(study)) for study in (1, 2, 3))
    with edge(tmp_path, place.s3_endpoint, manifests={"quiet_seconds": 0.2}) as node:
        store(node, 1, 1, 2)
        store(node, 2, 1, 2)
        until("both are closed", lambda: not node.book.open_deliveries())
    assert is_closed(place, 1, 2)
    with edge(tmp_path, place.s3_endpoint, manifests={"quiet_seconds": 60}) as node:
        store(node, 3, 1)
    lost = next(key for key in folder_of(place, 2) if key.endswith(".dcm"))
    place.s3().delete_object(Bucket="archive", Key=lost)

    report = Chain(place, LINE, "manual__1").run()
    assert {held["study_key"]: held["reason"] for held in report["held"]} == {short: "fewer_than_declared"}
    assert completeness(place) == {whole: ("complete", 2)}
    assert folder_of(place, 3)

    with edge(tmp_path, place.s3_endpoint, manifests={"quiet_seconds": 0.2}) as node:
        store(node, 2, 1, 2)  # the sender sends the study again
        until("all are closed", lambda: not node.book.open_deliveries())
    assert is_closed(place, 3)
    Chain(place, LINE, "manual__2").run()
    assert completeness(place) == {whole: ("complete", 2), short: ("complete", 2), late: ("complete", 1)}
