"""A real PACS holds exactly the released instances of a STOW route: Orthanc with its DICOMweb plugin.

Small ones run with every test where Orthanc is installed; `make proofs` needs it.
"""

from __future__ import annotations

import json
import signal
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from airlock.destinations.dicomweb import DicomWeb, Part, StoreAnswer
from airlock.records import study_key
from airlock.stages.route import RouteError
from tests.chain import Chain, pipeline
from tests.dicom_files import ct, sop_uid, study_uid
from tests.servers.orthanc import MISSING, PASSWORD, USER, Orthanc, is_installed, orthanc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.chain import Place


@pytest.fixture
def pacs(request: pytest.FixtureRequest) -> Iterator[Orthanc]:
    if not is_installed():
        (pytest.fail if request.node.get_closest_marker("proof") else pytest.skip)(MISSING)
    with orthanc() as started:
        yield started


@pytest.fixture
def connected(pacs: Orthanc, monkeypatch: pytest.MonkeyPatch) -> Orthanc:
    connection = {"conn_type": "http", "host": pacs.url, "login": USER, "password": PASSWORD}
    monkeypatch.setenv("AIRFLOW_CONN_PACS", json.dumps(connection))
    return pacs


def routed(**stow: Any) -> list[dict[str, Any]]:
    delivery = {"backoff_seconds": 0, "max_backoff_seconds": 0}
    return [{"name": "pacs", "stow": {"conn_id": "pacs"} | stow, "delivery": delivery}]


def delivery(studies: range, instances: int, pixels: int = 1) -> dict[str, bytes]:
    """Return files by SOPInstanceUID, each with pixel data of its own."""
    return {
        sop_uid(study, 1, number): ct(
            study, 1, number, Rows=16 * pixels, Columns=16, PixelData=bytes([study % 250, number % 250]) * 256 * pixels
        )
        for study in studies
        for number in range(1, instances + 1)
    }


def put(place: Place, files: dict[str, bytes]) -> None:
    place.put({f"{uid}.dcm": body for uid, body in files.items()})


def test_the_pacs_holds_the_released_instances_byte_for_byte_and_nothing_of_a_held_study(
    place: Place, connected: Orthanc
) -> None:
    files = delivery(range(1, 3), 3)
    spoilt = delivery(range(3, 4), 2)
    put(place, files | spoilt)
    place.put({"broken.dcm": ct(3, 1, 9, PatientID="x" * 300)})  # quarantined, and so its study is held
    chain = Chain(place, pipeline(routes=routed(instances_per_request=2)))
    chain.run()
    assert connected.instances() == files.keys()
    assert connected.files() == files
    changes = connected.changes()
    chain.onward("route")
    assert connected.changes() == changes  # what is sent once is not sent again


def test_the_pacs_has_what_it_was_sent_before_the_ledger_was_told(place: Place, connected: Orthanc) -> None:
    files = delivery(range(1, 2), 2)
    put(place, files)
    chain = Chain(place, pipeline(routes=routed()))
    chain.until("audit")
    with place.ledger() as ledger, pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(ledger), "decide_stow_instances", _die)
        with pytest.raises(_KilledError):
            chain.stage("route")
    assert connected.instances() == files.keys()
    chain.onward("route")
    assert connected.files() == files


class _KilledError(BaseException):
    """Stands for the end of a worker, which nothing catches."""


def _die(*_: Any) -> None:
    raise _KilledError


@pytest.mark.proof
@pytest.mark.parametrize("within", [False, True], ids=["between two requests", "within a request"])
def test_the_pacs_holds_exactly_the_released_instances_after_it_was_killed_half_way(
    place: Place, connected: Orthanc, monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    files = delivery(range(1, 21), 6, pixels=8)
    put(place, files)
    chain = Chain(place, pipeline(routes=routed(instances_per_request=2, requests_in_flight=1)), tries=1)
    chain.until("audit")
    with monkeypatch.context() as patch:
        patch.setattr(DicomWeb, "store", killing(connected, before=len(files) // 4, within=within))
        with pytest.raises(RouteError, match="pacs: "):
            chain.stage("route")
    connected.start()
    held = connected.instances()
    assert 0 < len(held) < len(files)
    assert held < files.keys()
    chain.onward("route")
    assert connected.instances() == files.keys()
    assert connected.files() == files


def killing(server: Orthanc, before: int, within: bool) -> Callable[[DicomWeb, list[Part]], StoreAnswer]:
    """Return `DicomWeb.store` with a server that is killed before a request of this number, or within it."""
    store, numbers = DicomWeb.store, count(1)

    def killed(pieces: Iterable[bytes]) -> Iterator[bytes]:
        server.end(signal.SIGKILL)
        yield from pieces

    def stored(web: DicomWeb, parts: list[Part]) -> StoreAnswer:
        if next(numbers) == before:
            if within:
                parts[-1] = Part(parts[-1].size, killed(parts[-1].pieces))
            else:
                server.end(signal.SIGKILL)
        return store(web, parts)

    return stored


def test_each_released_study_is_told_to_an_asset_once_and_again_by_a_retry(place: Place) -> None:
    put(place, delivery(range(1, 3), 1))
    chain = Chain(place, pipeline(routes=[{"name": "studies", "asset": {"name": "released-studies"}}]))
    chain.run()
    told = {study_key(study_uid(study)) for study in (1, 2)}
    assert chain.xcom["mark_announced", 0] == {"released-studies": 2}
    assert chain.partitions("released-studies") == told
    chain.stage("announce")
    assert chain.partitions("released-studies") == told
