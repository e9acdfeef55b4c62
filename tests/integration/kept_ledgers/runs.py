"""The runs of a kept world: each stands still at a place from which the code of any later day must finish it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airlock.stages.route import RouteError
from tests.chain import Chain, clinical_pipeline, pipeline
from tests.clinical_files import delivery as records
from tests.dicom_files import ct

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from tests.chain import Place

ASKING: dict[str, Any] = {"manifest_wait_seconds": 3, "on_hold": "review"}
# What was imported before lies in an emulator that is not kept.
UNREAD: dict[str, Any] = {"manifest_wait_seconds": 3, "read_back_fraction": 0.0}
ORDER: dict[str, Any] = {"order": {"across_keys": "last_updated"}}


def kept_pipelines() -> dict[str, Pipeline]:
    """Return the pipeline of each run, by the run's name."""
    return {
        "claimed_images": pipeline("images", source=_below("images")),
        "claimed_records": clinical_pipeline("records", source=_below("records") | ORDER),
        "imported": pipeline("imported", source=_below("imported"), audit=UNREAD),
        "reviewed": pipeline("reviewed", source=_below("reviewed"), audit=ASKING, review={"by": "the archive team"}),
        "outbox": pipeline("outbox", source=_below("outbox"), routes=[_webhook()]),
    }


def _below(folder: str) -> dict[str, Any]:
    return {"uri": f"s3://archive/{folder}/"}


def _webhook() -> dict[str, Any]:
    return {"name": "hook", "webhook": {"conn_id": "hospital"}, "delivery": {"backoff_seconds": 0}}


def connect_hospital(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let the connection of the webhook name this address."""
    monkeypatch.setenv("AIRFLOW_CONN_HOSPITAL", json.dumps({"conn_type": "http", "host": url, "password": "known"}))


def stopped_runs(place: Place) -> dict[str, Chain]:
    """Take each pipeline's delivery as far as a kept world shows it."""
    _deliver(place)
    runs = {name: Chain(place, of) for name, of in kept_pipelines().items()}
    runs["claimed_images"].until("validate")
    runs["claimed_records"].until("validate")
    runs["imported"].until("import")
    runs["reviewed"].until("audit")
    with pytest.raises(RouteError):
        runs["outbox"].run()
    return runs


def _deliver(place: Place) -> None:
    place.put({f"{n}.dcm": ct(1, 1, n) for n in (1, 2, 3)} | {"not.dcm": b"not DICOM"}, "images/")
    place.put(records(patients=2, observations=2), "records/")
    place.put({f"{n}.dcm": ct(2, 1, n) for n in (1, 2)}, "imported/")
    place.put({"1.dcm": ct(3, 1, 1), "2.dcm": ct(3, 1, 2)[:-100]}, "reviewed/")
    place.put({f"{n}.dcm": ct(4, 1, n) for n in (1, 2)} | {"other.dcm": ct(5, 1, 1)}, "outbox/")
