"""$validate: about whom it is asked, and what its answer means."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.clinical.service_check import ask, first_words, sampled
from airlock.pipelines import ClinicalValidate
from airlock.reasons import Reason
from tests.unit.airlock.clinical.books import observation, patient
from tests.unit.airlock.clinical.world import RefusedError, Store, validated, words

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

UNITS = pl.DataFrame(
    [("a", line, "Patient" if line <= 10 else "Observation", f"{(line * 7919) % 1000:03}") for line in range(1, 101)],
    schema=["arrival_id", "line", "resource_type", "content_digest"],
    orient="row",
)


def settings(size: int) -> ClinicalValidate:
    return ClinicalValidate.model_validate({"service_check": "sample", "sample_size": size})


class TestSample:
    def test_it_is_no_larger_than_wanted(self) -> None:
        assert sampled([UNITS], settings(30)).height == 30
        assert sampled([UNITS], settings(500)).height == 100

    def test_it_has_every_type(self) -> None:
        kinds = sampled([UNITS], settings(8))["resource_type"]
        assert sorted(kinds) == ["Observation"] * 4 + ["Patient"] * 4

    def test_the_same_delivery_gives_the_same_sample_in_any_order_and_in_any_parts(self) -> None:
        shuffled = UNITS.sample(fraction=1, shuffle=True, seed=7)
        one, other, parts = (
            set(sampled(units, settings(9))["line"]) for units in ([UNITS], [shuffled], shuffled.iter_slices(7))
        )
        assert one == other == parts

    def test_of_nothing_there_is_none(self) -> None:
        assert sampled([UNITS.clear()], settings(200)).height == 0

    def test_an_empty_delivery_has_none(self, world: World) -> None:
        run = validated(world, {}, store=Store(), validation={"service_check": "sample"})
        assert words(run) == {}


def findings(store: Any, *resources: dict[str, Any]) -> list[tuple[str, int, Any]]:
    bodies = [("a", line, json.dumps(resource)) for line, resource in enumerate(resources, start=1)]
    return list(ask(store, bodies, 3))


class TestAsk:
    def test_decimals_of_an_outcome_are_kept_with_their_digits(self) -> None:
        class Exact(Store):
            def validate(self, resource: str) -> dict[str, Any]:
                text = json.dumps(super().validate(resource)).replace(
                    '"no"', '"no", "extension": [{"valueDecimal": 1.10}]'
                )
                found: dict[str, Any] = json.loads(text, parse_float=Decimal)
                return found

        ((_, _, finding),) = findings(Exact(invalid={"o1": "no"}), observation("o1", "p1"))
        assert '"valueDecimal":1.10' in finding.outcome

    def test_an_error_is_a_finding_and_the_outcome_is_kept(self) -> None:
        store = Store(invalid={"o2": "code is missing"})
        resources = [observation(f"o{number}", "p1") for number in range(1, 6)]
        ((arrival, line, finding),) = findings(store, *resources)
        assert (arrival, line, finding.reason) == ("a", 2, Reason.SERVICE_FINDS_INVALID)
        assert finding.detail == "Observation.code: code is missing"
        assert json.loads(finding.outcome)["issue"][0]["diagnostics"] == "code is missing"
        assert sorted(each["id"] for each in store.validated) == ["o1", "o2", "o3", "o4", "o5"]

    @pytest.mark.parametrize(
        ("outcome", "wrong"),
        [
            ({"issue": [{"severity": "warning"}, {"severity": "information"}]}, False),
            ({"issue": [{"severity": "warning"}, {"severity": "fatal", "code": "structure"}]}, True),
            ({"issue": []}, False),
            ({}, False),
            ({"issue": [None, "x", {"severity": "error"}]}, True),
        ],
    )
    def test_warnings_are_none(self, outcome: dict[str, Any], wrong: bool) -> None:
        class Answers(Store):
            def validate(self, resource: str) -> dict[str, Any]:
                return {"resourceType": "OperationOutcome", **outcome}

        assert bool(findings(Answers(), patient("p1"))) == wrong

    @pytest.mark.parametrize("status", [400, 413, 422])
    def test_a_resource_that_the_data_store_will_not_look_at_is_a_finding(self, status: int) -> None:
        ((_, line, finding),) = findings(Store(invalid={"p2": status}), patient("p1"), patient("p2"), patient("p3"))
        assert (line, finding.detail) == (2, f"$validate refuses it: HTTP {status}")
        assert json.loads(finding.outcome)["resourceType"] == "OperationOutcome"

    def test_it_is_sent_the_text_with_all_its_digits(self) -> None:
        class Keeps(Store):
            def validate(self, resource: str) -> dict[str, Any]:
                self.asked.append(resource)
                return {}

        store, text = Keeps(), '{"resourceType":"Observation","id":"o1","valueDecimal":70.10}'
        assert list(ask(store, [("a", 1, text)], 1)) == []
        assert store.asked == [text]

    @pytest.mark.parametrize("status", [403, 404, 429, 503])
    def test_a_data_store_that_does_not_answer_ends_the_task(self, status: int) -> None:
        with pytest.raises(RefusedError, match=str(status)):
            findings(Store(invalid={"p2": status}), patient("p1"), patient("p2"))


@pytest.mark.parametrize(
    ("issue", "words"),
    [
        ({"expression": ["Patient.name"], "diagnostics": "why"}, "Patient.name: why"),
        ({"location": ["Patient.name"], "details": {"text": "why"}}, "Patient.name: why"),
        ({"code": "structure"}, "structure"),
        ({"expression": "Patient", "details": "x", "code": "structure"}, "structure"),
        ({}, ""),
        ({"diagnostics": "x" * 900}, "x" * 500),
    ],
)
def test_first_words(issue: dict[str, Any], words: str) -> None:
    assert first_words(issue) == words
