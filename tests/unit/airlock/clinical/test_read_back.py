"""Some resources are read back by their ids and held against what was sent, number by number."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from airlock.clinical.read_back import TRIES, VALIDATION_ISSUE, agrees, choose_sample, flag_mismatches, read_back
from tests.unit.airlock.clinical.books import Store, batch, ndjson, observation, outcomes, patient, unit

if TYPE_CHECKING:
    import polars as pl

    from tests.unit.airlock.world import World

SENT = {"resourceType": "Patient", "id": "p1", "meta": {"tag": [{"code": "a"}]}, "name": [{"family": "Doe"}]}
ISSUE = {"url": VALIDATION_ISSUE, "valueString": "{}"}
OTHER = {"url": "urn:other", "valueString": "x"}


def with_value(value: Any) -> dict[str, Any]:
    return SENT | {"valueQuantity": {"value": value}}


class TestAgreement:
    @pytest.mark.parametrize(
        "held",
        [
            SENT,
            SENT | {"meta": {"tag": [{"code": "b"}, {"code": "a"}], "versionId": "2", "lastUpdated": "2026-01-01"}},
            SENT | {"extension": [ISSUE]},
            dict(reversed(SENT.items())),
        ],
    )
    def test_what_the_store_adds_does_not_count(self, held: dict[str, Any]) -> None:
        assert agrees(SENT, held)

    @pytest.mark.parametrize(
        "held",
        [
            SENT | {"name": [{"family": "Roe"}]},
            SENT | {"name": []},
            SENT | {"gender": "male"},
            SENT | {"extension": [OTHER]},
            SENT | {"extension": "no list"},
            SENT | {"meta": {"tag": []}},
            SENT | {"meta": {"versionId": "2"}},
            {name: value for name, value in SENT.items() if name != "meta"},
            {name: value for name, value in SENT.items() if name != "name"},
            {},
        ],
    )
    def test_anything_else_does(self, held: dict[str, Any]) -> None:
        assert not agrees(SENT, held)

    def test_an_extension_that_was_sent_must_be_there(self) -> None:
        assert agrees(SENT | {"extension": [OTHER]}, SENT | {"extension": [OTHER, ISSUE]})
        assert not agrees(SENT | {"extension": [OTHER]}, SENT | {"extension": [ISSUE]})

    def test_a_version_that_was_sent_need_not_stay(self) -> None:
        assert agrees(SENT | {"meta": {"versionId": "7"}}, SENT | {"meta": {"versionId": "1"}})

    @pytest.mark.parametrize(
        ("sent", "held", "same"),
        [
            (Decimal("1.10"), Decimal("1.10"), True),
            (Decimal("1.10"), Decimal("1.1"), False),
            (Decimal("1.0"), 1, False),
            (100, Decimal("1e2"), False),
            (Decimal("1e2"), Decimal("1E+2"), True),
            (Decimal("0.0000001"), Decimal("1e-7"), True),
            (Decimal("100000000000000000000.5"), Decimal("100000000000000000000.5"), True),
            (Decimal("100000000000000000000.5"), Decimal("1e20"), False),
            (Decimal("100000000000000000000.5"), 1e20, False),
            (Decimal("0.1"), 0.1, False),
            (10**25, 10**25, True),
            (10**25, 10**25 + 1, False),
            (Decimal("12345678901234567.1"), Decimal("12345678901234567.2"), False),
            (Decimal("1.1"), "1.1", False),
            (1, True, False),
            (True, True, True),
            (False, 0, False),
            (2, 3, False),
        ],
    )
    def test_numbers_are_compared_with_their_precision_and_without_their_spelling(
        self, sent: Any, held: Any, same: bool
    ) -> None:
        assert agrees(with_value(sent), with_value(held)) == same


class TestChoice:
    def test_every_type_has_its_share_and_the_choice_stays(self) -> None:
        many = [unit(f"Observation/o{number}") for number in range(50)]
        rows = outcomes(*many, unit("Patient/p1"), unit("Group/g1"))
        chosen = choose_sample(rows, 4)
        assert sorted(chosen["resource_type"]) == ["Group", "Observation", "Observation", "Patient"]
        assert choose_sample(rows.reverse(), 4)["resource_id"].to_list() == chosen["resource_id"].to_list()

    def test_only_what_came_in_is_read(self) -> None:
        rows = outcomes(unit("Patient/p1"), outcome="rejected").vstack(outcomes(unit("Patient/p2")))
        assert choose_sample(rows, 10)["resource_id"].to_list() == ["p2"]


PATIENTS = [patient("p1"), patient("p2", multipleBirthInteger=3)]
WEIGHT = observation("o1", "p1", valueQuantity={"value": 70.1})
UNITS = (unit("Patient/p1"), unit("Patient/p2"), unit("Observation/o1"))


def held(*resources: dict[str, Any]) -> Store:
    store = Store()
    for resource in resources:
        text = json.dumps(resource | {"meta": {"versionId": "1"}})
        store.held[f"{resource['resourceType']}/{resource['id']}"] = json.loads(text, parse_float=Decimal)
    return store


def reasons(world: World, store: Store, sample: int = 10, pause: Any = lambda _: None) -> dict[str, str | None]:
    """Stage the import files, read back, and return the reasons by id."""
    world.put("s3://work/staging/b1/Patient.ndjson", ndjson(PATIENTS))
    world.put("s3://work/staging/b1/Observation.ndjson", ndjson([WEIGHT]))
    rows: pl.DataFrame = outcomes(*UNITS).with_columns(uncertain=False)
    found = flag_mismatches(rows, read_back(store, world.s3, choose_sample(rows, sample), [batch(*UNITS)], pause=pause))
    assert found["uncertain"].to_list() == [reason is not None for reason in found["reason"]]
    return dict(found.select("resource_id", "reason").iter_rows())


class TestReadBack:
    def test_what_is_held_as_sent_is_left_alone(self, world: World) -> None:
        assert set(reasons(world, held(*PATIENTS, WEIGHT)).values()) == {None}

    def test_what_differs_and_what_is_not_there_is_uncertain(self, world: World) -> None:
        other = WEIGHT | {"valueQuantity": {"value": 75.0}}
        mismatch = "read_back_mismatch"
        assert reasons(world, held(PATIENTS[0], other)) == {"p1": None, "p2": mismatch, "o1": mismatch}

    def test_what_comes_late_is_waited_for(self, world: World) -> None:
        store, waits = held(PATIENTS[0], WEIGHT), []

        def pause(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 2:
                store.held |= held(PATIENTS[1]).held

        assert set(reasons(world, store, pause=pause).values()) == {None}
        assert waits == [2, 4]
        assert store.asked.count("Patient/p1") == 1, "only what differs is read again"

    def test_the_wait_is_bounded(self, world: World) -> None:
        waits: list[float] = []
        reasons(world, held(), pause=waits.append)
        assert len(waits) == TRIES - 1

    def test_no_more_are_read_than_the_sample(self, world: World) -> None:
        store = held(*PATIENTS, WEIGHT)
        reasons(world, store, sample=2)
        assert len(store.asked) == 2
