"""References: which resource each one means, how it is written then, and what falls with one that leads nowhere."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock.clinical.records import RESOURCES
from airlock.clinical.references import EDGES, IS_REWRITTEN, MEANINGS, Resolver, find_dependents, find_missing
from airlock.storage.spool import PARTITION_ROWS, Partitions
from tests.unit.airlock.clinical.world import RefusedError, Store
from tests.unit.airlock.world import frame

URN = "urn:uuid:11111111-2222-4333-8444-555555555555"
ABSOLUTE = "https://there.example/fhir/Patient/77"


def unit(name: str, *references: str, file: str = "a", line: int = 1, **more: Any) -> dict[str, Any]:
    """Return a row of the resources dataset."""
    resource_type, _, resource_id = name.partition("/")
    known = {"arrival_id": file, "line": line, "resource_type": resource_type, "resource_id": resource_id}
    return known | {"references": list(references), "identifiers": [], "full_url": None} | more


def resolved(*rows: dict[str, Any], twins: tuple[dict[str, Any], ...] = (), store: Store | None = None) -> pl.DataFrame:
    units = frame(list(rows), RESOURCES).with_row_index("row")
    with Partitions(3 * PARTITION_ROWS) as partitions:
        resolver = Resolver(partitions, store)
        resolver.add_resources(frame(list(twins), RESOURCES))
        resolver.add_resources(units)
        resolver.add_references(units)
        return pl.concat([MEANINGS.to_frame(), *resolver.find_meanings()])


def meaning(reference: str, *others: dict[str, Any], **more: Any) -> tuple[str | None, str | None, str | None]:
    """Return the form of a reference, its target, and the reason if it means no resource."""
    found = resolved(unit("Observation/o1", reference, line=9), *others, **more)
    becomes = pl.when(IS_REWRITTEN).then("reference")
    return found.select(becomes, "target", "why").row(0)


P1 = unit("Patient/p1", full_url=URN, identifiers=["s|1", "|plain", "a b|c"])


class TestLiteral:
    @pytest.mark.parametrize(
        "reference", ["Patient/p1", "Patient/x", "Patient/x.", "Patient/.x", "Patient/p1/_history/3"]
    )
    def test_it_stays_as_it_is(self, reference: str) -> None:
        assert meaning(reference) == (None, reference.removesuffix("/_history/3"), None)

    @pytest.mark.parametrize(
        "reference",
        [
            ABSOLUTE,
            "http://there/fhir/Patient/1",
            "Patient/a_b",
            "Patient/.",
            "Patient/..",
            "Patient",
            "",
            "#inside",
            "/Patient/p1",
            "Patient/p1/x",
        ],
    )
    def test_a_reference_to_another_server_stays(self, reference: str) -> None:
        assert meaning(reference) == (None, None, None)


class TestFullUrl:
    def test_it_means_the_entry_with_it(self) -> None:
        assert meaning(URN, P1) == ("Patient/p1", "Patient/p1", None)

    def test_an_absolute_one_too(self) -> None:
        assert meaning(ABSOLUTE, P1 | {"full_url": ABSOLUTE}) == ("Patient/p1", "Patient/p1", None)

    def test_only_within_its_file(self) -> None:
        lost = "a urn reference that leads to no single resource"
        assert meaning(URN, P1 | {"arrival_id": "b"}) == (None, None, lost)

    def test_a_full_url_of_two_resources_means_none(self) -> None:
        lost = "a urn reference that leads to no single resource"
        assert meaning(URN, P1, unit("Patient/p2", full_url=URN, line=2)) == (None, None, lost)

    def test_two_entries_of_one_resource_mean_it(self) -> None:
        assert meaning(URN, P1, P1 | {"line": 2}) == ("Patient/p1", "Patient/p1", None)

    def test_an_entry_counts_though_another_file_brought_its_resource_first(self) -> None:
        assert meaning(URN, twins=(P1,)) == ("Patient/p1", "Patient/p1", None)

    @pytest.mark.parametrize("reference", [URN, "urn:oid:1.2.3", "urn:uuid:"])
    def test_one_that_no_entry_has_means_none(self, reference: str) -> None:
        assert meaning(reference)[2] == "a urn reference that leads to no single resource"


class TestConditional:
    LOST = "a conditional reference that leads to no single resource"

    @pytest.mark.parametrize(
        "reference",
        ["Patient?identifier=s|1", "Patient?identifier=s%7C1", "Patient?identifier=a%20b|c"],
    )
    def test_it_means_the_resource_with_the_identifier_in_any_file(self, reference: str) -> None:
        store = Store()
        assert meaning(reference, P1 | {"arrival_id": "b"}, store=store) == ("Patient/p1", "Patient/p1", None)
        assert store.asked == []

    @pytest.mark.parametrize("reference", ["Patient?identifier=1", "Patient?identifier=|plain"])
    def test_an_identifier_without_its_system_means_none(self, reference: str) -> None:
        store = Store()
        assert meaning(reference, P1, store=store)[2] == self.LOST
        assert store.asked == [], "the data store may know another patient by it"

    def test_of_its_type_alone(self) -> None:
        assert meaning("Practitioner?identifier=s|1", P1) == (None, None, self.LOST)

    def test_two_resources_with_the_identifier_mean_none(self) -> None:
        other = unit("Patient/p2", line=2, identifiers=["s|1"])
        store = Store(found={"Patient?identifier=s|1": ["p3"]})
        assert meaning("Patient?identifier=s|1", P1, other)[2] == self.LOST
        assert meaning("Patient?identifier=s|1", P1, other, store=store)[2] == self.LOST

    def test_one_resource_that_comes_twice_is_one(self) -> None:
        assert meaning("Patient?identifier=s|1", P1, P1 | {"line": 2})[0] == "Patient/p1"

    @pytest.mark.parametrize(
        ("found", "becomes"), [([], None), (["p7"], "Patient/p7"), (["p7", "p8"], None), (["p7"] * 2, None)]
    )
    def test_the_data_store_is_asked_for_the_rest(self, found: list[str], becomes: str | None) -> None:
        store = Store(found={"Patient?identifier=s|2": list(found)})
        assert meaning("Patient?identifier=s%7C2", P1, store=store)[0] == becomes
        assert store.asked == ["Patient?identifier=s|2"]

    def test_any_search_parameter_is_allowed(self) -> None:
        store = Store(found={"Patient?family=Doe Roe&birthdate=1950": ["p7"]})
        assert meaning("Patient?family=Doe%20Roe&birthdate=1950", store=store)[0] == "Patient/p7"

    def test_each_search_is_made_once(self) -> None:
        store = Store(found={"Patient?identifier=s|2": ["p7"]})
        rows = [unit(f"Observation/o{line}", "Patient?identifier=s|2", line=line) for line in range(1, 6)]
        assert resolved(*rows, store=store).filter(IS_REWRITTEN).height == 5
        assert len(store.asked) == 1

    def test_a_search_is_broken_off_at_the_second_find(self) -> None:
        class Endless(Store):
            def search(self, resource_type: str, params: Any) -> Any:
                yield from ({"id": name} for name in "ab")
                raise AssertionError("asked for more than it takes")

        assert meaning("Patient?active=true", store=Endless())[2] == self.LOST

    @pytest.mark.parametrize("reference", ["Nonsense?a=1", "Patient?a=1&a=2"])
    def test_what_cannot_be_asked_is_not_asked(self, reference: str) -> None:
        store = Store(found={"Patient?a=2": ["p7"]})
        assert meaning(reference, store=store)[2] == self.LOST
        assert store.asked == []

    def test_a_search_that_the_data_store_refuses_costs_its_reference_alone(self) -> None:
        store = Store(found={"Patient?nonsense=1": 400, "Patient?identifier=s|2": ["p7"]})
        assert meaning("Patient?nonsense=1", store=store)[2] == self.LOST

    @pytest.mark.parametrize("status", [403, 429, 500])
    def test_a_data_store_that_does_not_answer_ends_the_task(self, status: int) -> None:
        with pytest.raises(RefusedError, match=str(status)):
            meaning("Patient?identifier=s|2", store=Store(found={"Patient?identifier=s|2": status}))


class TestMissing:
    @staticmethod
    def of(targets: list[str], known: list[str] = [], store: Store | None = None) -> set[str]:  # noqa: B006
        def ledger(keys: pl.DataFrame) -> pl.DataFrame:
            name = pl.format("{}/{}", "resource_type", "resource_id")
            return keys.filter(name.is_in(known))

        return find_missing(pl.Series(targets, dtype=pl.String), ledger, pl.Series(["Patient/here"]), store, 4)

    def test_nothing_is_asked_where_nothing_is_open(self) -> None:
        assert self.of([]) == self.of(["Patient/here"], store=Store()) == set()

    def test_the_ledger_is_asked_and_then_the_data_store(self) -> None:
        store = Store(held={"Patient/there", "Patient/known"})
        targets = ["Patient/here", "Patient/known", "Patient/there", "Patient/nowhere", "Nonsense/x"]
        assert self.of(targets, ["Patient/known"], store) == {"Patient/nowhere", "Nonsense/x"}
        assert sorted(store.asked) == ["Patient/nowhere", "Patient/there"]

    def test_without_a_data_store_the_rest_is_missing(self) -> None:
        assert self.of(["Patient/known", "Patient/there"], ["Patient/known"]) == {"Patient/there"}


def fallen(edges: dict[str, list[str]], gone: set[str]) -> dict[str, str]:
    """Return the stopped units by name, with the type of the missing target."""
    rows = [
        (row, edge, name, target)
        for row, (name, targets) in enumerate(edges.items())
        for edge, target in enumerate(targets)
    ]
    with Partitions(3 * PARTITION_ROWS) as partitions:
        spool = partitions.spool(pl.col("target"), EDGES, [pl.DataFrame(rows, schema=EDGES, orient="row")])
        stopped = find_dependents(partitions, spool, [gone] * partitions.number)
        return {own: kind for part in stopped for own, kind in part.select("own", "kind").iter_rows()}


class TestCascade:
    def test_a_unit_that_refers_to_a_stopped_unit_is_stopped(self) -> None:
        edges = {
            "Encounter/e": ["Patient/gone"],
            "Observation/o": ["Encounter/e", "Patient/p"],
            "Patient/p": ["Organization/g"],
            "Organization/g": [],
            "DiagnosticReport/r": ["Observation/o"],
        }
        assert fallen(edges, {"Patient/gone"}) == {
            "Encounter/e": "Patient",
            "Observation/o": "Encounter",
            "DiagnosticReport/r": "Observation",
        }

    def test_a_circle_ends(self) -> None:
        assert fallen({"Patient/a": ["Patient/b"], "Patient/b": ["Patient/a", "Patient/x"]}, {"Patient/x"}) == {
            "Patient/b": "Patient",
            "Patient/a": "Patient",
        }
        assert fallen({"Patient/a": ["Patient/a"]}, set()) == {}

    @given(st.dictionaries(st.integers(0, 9), st.lists(st.integers(0, 12), max_size=3), max_size=10))
    def test_the_other_units_refer_to_no_missing_resource(self, graph: dict[int, list[int]]) -> None:
        edges = {f"Basic/{name}": [f"Basic/{target}" for target in targets] for name, targets in graph.items()}
        gone = {target for targets in edges.values() for target in targets} - edges.keys()
        stopped = fallen(edges, gone).keys()
        left = edges.keys() - stopped
        assert all(target in left for name in left for target in edges[name])
        # And nothing falls without cause.
        assert all(any(target in gone or target in stopped for target in edges[name]) for name in stopped)
