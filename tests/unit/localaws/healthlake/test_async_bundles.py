"""Asynchronous transactions: queued, carried out step by step, polled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from localaws.healthlake.async_bundles import KIND, AsyncBundles
from localaws.healthlake.bundles import Limits
from tests.unit.localaws.healthlake.rest_plane import OBSERVATION, PATIENT, Answer, Plane, changed
from tests.unit.localaws.healthlake.test_bundles import bundle, entry, statuses

if TYPE_CHECKING:
    from pathlib import Path

CREATE = entry("POST", "Patient", PATIENT)


def submit(plane: Plane, *entries: object, kind: str = "transaction") -> Answer:
    return plane.send("POST", "", bundle(kind, *entries), prefer="respond-async")


def place(answer: Answer) -> str:
    assert answer.status == 202, answer.body
    return answer.headers["content-location"].partition("/r4/")[2]


def steps(plane: Plane, answer: Answer) -> AsyncBundles:
    """The part that the schedule calls, once the transaction stands in the to-do list."""
    with plane.state.read() as connection:
        subjects = [row["subject"] for row in connection.execute("SELECT subject FROM todo WHERE kind = ?", (KIND,))]
    assert place(answer).removeprefix("Transaction/") in subjects
    return plane.endpoint._async_bundles


def test_it_is_submitted_then_in_progress_then_done(plane: Plane) -> None:
    answer = submit(plane, CREATE, CREATE)
    name = place(answer).removeprefix("Transaction/")
    assert answer.body["issue"][0]["location"] == [answer.headers["content-location"]]
    work = steps(plane, answer)
    queued = plane.get(place(answer))
    assert (queued.status, queued.body["id"], queued.body["issue"][0]["diagnostics"]) == (202, name, "SUBMITTED")
    assert work.step(name) is not None
    assert plane.get(place(answer)).body["issue"][0]["diagnostics"] == "IN_PROGRESS"
    assert plane.get("Patient").ids == []
    assert work.step(name) is None
    done = plane.get(place(answer))
    assert statuses(done) == ["201", "201"]
    assert done.body["type"] == "transaction-response"
    assert work.step(name) is None
    assert len(plane.get("Patient").ids) == 2


def test_decimals_keep_their_digits_while_they_wait(plane: Plane) -> None:
    text = json.dumps(bundle("transaction", entry("PUT", "Observation/o1", OBSERVATION))).replace("72.5", "1.10")
    call = plane.call("POST", "", text.encode(), {"prefer": "respond-async"})
    name = plane.endpoint.answer(call).headers["content-location"].rpartition("/")[2]
    plane.endpoint._async_bundles.step(name)
    plane.endpoint._async_bundles.step(name)
    stored = plane.endpoint.answer(plane.call("GET", "Observation/o1"))
    assert b'"value":1.10,' in bytes(stored.body)


def test_a_conflict_shows_when_it_is_polled_and_nothing_is_stored(plane: Plane) -> None:
    plane.put(PATIENT)
    late = entry("PUT", "Patient/p1", PATIENT, ifMatch='W/"1"')
    answer = submit(plane, entry("PUT", "Patient/p2", changed(PATIENT, id="p2")), late)
    plane.put(PATIENT)
    work, name = steps(plane, answer), place(answer).removeprefix("Transaction/")
    assert (work.step(name) is not None, work.step(name)) == (True, None)
    failed = plane.get(place(answer))
    assert (failed.status, failed.codes) == (412, ["conflict"])
    assert plane.get("Patient/p2").status == 404


@pytest.mark.parametrize(
    ("entries", "kind", "status"),
    [
        ((entry("POST", "Patient", changed(PATIENT, gender="M")),), "transaction", 400),
        ((entry("PUT", "Patient?_id=p1", PATIENT),), "transaction", 400),
        ((entry("POST", "Patient", None),), "transaction", 400),
        ((entry("PATCH", "Patient/p1", {}),), "transaction", 501),
        ((CREATE,), "batch", 400),
        ((CREATE,) * 4, "transaction", 422),
    ],
)
def test_what_is_wrong_with_it_is_said_before_it_is_queued(
    tmp_path: Path, entries: tuple[object, ...], kind: str, status: int
) -> None:
    plane = Plane.open(tmp_path, Limits(transaction=2, asynchronous=3))
    assert submit(plane, *entries, kind=kind).status == status
    with plane.state.read() as connection:
        assert connection.execute("SELECT count(*) FROM fhir_transaction").fetchone()[0] == 0


def test_more_than_may_wait_are_throttled(tmp_path: Path) -> None:
    plane = Plane.open(tmp_path, Limits(pending=1))
    assert submit(plane, CREATE).status == 202
    assert (submit(plane, CREATE).status, submit(plane, CREATE).codes) == (429, ["throttled"])


def test_a_transaction_of_another_data_store_is_not_found(plane: Plane) -> None:
    answer = submit(plane, CREATE)
    assert plane.other_store().get(place(answer)).status == 404


def test_a_transaction_that_breaks_has_failed_and_is_not_tried_for_ever(plane: Plane) -> None:
    answer = submit(plane, CREATE)
    work, name = steps(plane, answer), place(answer).removeprefix("Transaction/")
    with plane.state.write() as connection:
        connection.execute("UPDATE fhir_transaction SET level = 'broken' WHERE id = ?", (name,))
        connection.execute("UPDATE fhir_transaction SET bundle = '[]' WHERE id = ?", (name,))
    assert (work.step(name) is not None, work.step(name)) == (True, None)
    assert plane.get(place(answer)).status == 400
