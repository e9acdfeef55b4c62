"""Versions of resources: what is kept, what is current, and from when on it is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.localaws.healthlake.rest_plane import OBSERVATION, PATIENT, Clock, Plane, changed

if TYPE_CHECKING:
    from pathlib import Path


def test_every_put_is_a_new_version_even_of_equal_content(plane: Plane) -> None:
    with plane.state.write() as connection:
        versions = [plane.store.put(connection, plane.datastore_id, PATIENT).version for _ in range(3)]
        first = plane.store.read(connection, plane.datastore_id, "Patient", "p1", 1)
        current = plane.store.read(connection, plane.datastore_id, "Patient", "p1")
    assert versions == [1, 2, 3]
    assert first is not None
    assert first.body["meta"]["versionId"] == "1"
    assert current is not None
    assert (current.version, current.etag) == (3, 'W/"3"')


def test_meta_keeps_what_it_had_and_gets_version_and_time(plane: Plane) -> None:
    tag = {"system": "urn:example", "code": "x"}
    with plane.state.write() as connection:
        stored = plane.store.put(
            connection, plane.datastore_id, changed(PATIENT, meta={"tag": [tag], "versionId": "99"})
        )
        broken = plane.store.put(connection, plane.datastore_id, changed(PATIENT, id="p2", meta="no object"))
    assert stored.body["meta"] == {"tag": [tag], "versionId": "1", "lastUpdated": stored.last_updated}
    assert broken.body["meta"]["versionId"] == "1"


def test_a_deleted_resource_keeps_its_versions_and_can_come_back(plane: Plane) -> None:
    with plane.state.write() as connection:
        store, name = plane.store, (plane.datastore_id, "Patient", "p1")
        assert store.delete(connection, *name) is None
        store.put(connection, plane.datastore_id, PATIENT)
        deleted = store.delete(connection, *name)
        again = store.delete(connection, *name)
        assert deleted is not None
        assert again is not None
        assert (deleted.version, deleted.deleted, again.version) == (2, True, 2)
        assert list(store.each(connection, plane.datastore_id)) == []
        assert store.put(connection, plane.datastore_id, PATIENT).version == 3
        assert [version.deleted for version in store.history(connection, *name)] == [False, True, False]


def test_each_gives_current_resources_of_one_store_by_type_and_id(plane: Plane) -> None:
    plane.other_store().fill([PATIENT])
    plane.fill([changed(PATIENT, id="b"), OBSERVATION, changed(PATIENT, id="a"), changed(PATIENT, id="a")])
    with plane.state.read() as connection:
        names = [
            (item.resource_type, item.id, item.version) for item in plane.store.each(connection, plane.datastore_id)
        ]
        some = [item.id for item in plane.store.each(connection, plane.datastore_id, types={"Observation"})]
        later = list(plane.store.each(connection, plane.datastore_id, since=4_000_000_000.0))
    assert names == [("Observation", "o1", 1), ("Patient", "a", 2), ("Patient", "b", 1)]
    assert some == ["o1"]
    assert later == []


def test_a_read_finds_at_once_what_search_and_history_find_after_the_lag(tmp_path: Path) -> None:
    clock = Clock()
    plane = Plane.open(tmp_path, search_lag=20.0, clock=clock)
    plane.fill([PATIENT])
    assert plane.get("Patient/p1").status == 200
    assert plane.get("Patient?_id=p1").ids == []
    assert plane.get("Patient/p1/_history").body["total"] == 0
    clock.now += 21
    assert plane.get("Patient?_id=p1").ids == ["p1"]
    assert plane.get("Patient/p1/_history").body["total"] == 1


def test_an_updated_resource_is_not_found_until_it_is_indexed_unless_strong_is_asked_for(tmp_path: Path) -> None:
    clock = Clock()
    plane = Plane.open(tmp_path, search_lag=20.0, clock=clock)
    plane.fill([PATIENT])
    clock.now += 21
    plane.fill([changed(PATIENT, gender="male")])
    assert plane.get("Patient?_id=p1").ids == []
    strong = plane.get("Patient?_id=p1", x_amz_fhir_history_consistency_level="strong")
    assert [entry["resource"]["gender"] for entry in strong.body["entry"]] == ["female"]
    assert plane.get("Patient?gender=male", x_amz_fhir_history_consistency_level="strong").ids == []
    clock.now += 21
    assert plane.get("Patient?gender=male").ids == ["p1"]
    assert plane.get("Patient?gender=female").ids == []


def test_a_strong_write_keeps_the_version_before_it_findable(tmp_path: Path) -> None:
    clock = Clock()
    plane = Plane.open(tmp_path, search_lag=20.0, clock=clock)
    plane.fill([PATIENT])
    clock.now += 21
    plane.put(changed(PATIENT, gender="male"), x_amz_fhir_history_consistency_level="strong")
    assert plane.get("Patient?gender=female").ids == ["p1"]
    clock.now += 21
    assert plane.get("Patient?gender=female").ids == []
    assert plane.put(PATIENT, x_amz_fhir_history_consistency_level="perfect").status == 400


def test_a_total_counts_a_deleted_resource_for_the_length_of_the_lag(tmp_path: Path) -> None:
    clock = Clock()
    plane = Plane.open(tmp_path, search_lag=20.0, clock=clock)
    plane.fill([PATIENT])
    clock.now += 21
    plane.send("DELETE", "Patient/p1")
    stale = plane.get("Patient?_total=accurate")
    assert (stale.body["total"], stale.ids) == (1, [])
    clock.now += 21
    assert plane.get("Patient?_total=accurate").body["total"] == 0


def test_search_rows_of_versions_that_nobody_can_find_any_more_are_dropped(plane: Plane) -> None:
    for _ in range(5):
        plane.fill([PATIENT])
    query = "SELECT version FROM fhir_version WHERE datastore_id = ? AND number IN (SELECT number FROM fhir_search)"
    with plane.state.read() as connection:
        findable = [row["version"] for row in connection.execute(query, (plane.datastore_id,))]
    assert findable == [5]
