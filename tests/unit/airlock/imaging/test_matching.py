"""What decides whose studies are is gathered from the data store, the ledger and the crosswalk, and kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.imaging.crosswalk import CrosswalkError
from airlock.imaging.fhir.identifiers import own_patient_id
from airlock.imaging.fhir.patient import build_patient
from airlock.imaging.matching import (
    Head,
    Matcher,
    complete_contracts,
    find_contradicted,
    find_healthlake,
    match_studies,
    read_heads,
    read_matches,
)
from airlock.ledger import IdentityAnswer
from airlock.records import CONTRACTS
from airlock.run import Run
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.clinical.books import SECTIONS
from tests.unit.airlock.imaging.fhir.studies import study
from tests.unit.airlock.imaging.lake import MRN, Lake, ehr_order, ehr_patient
from tests.unit.airlock.world import pipeline

if TYPE_CHECKING:
    from airlock.imaging.contracts import StudyContract
    from airlock.imaging.matching import Matched
    from tests.unit.airlock.world import World

RULE = {"type": "identifier", "system": MRN}
_CLAIM = dict.fromkeys(("arrival_id", "resource_type", "resource_id", "content_digest", "clock", "patient"), pl.String)


def line(*rules: dict[str, Any], **changes: Any) -> Any:
    """Return a pipeline that matches patients of the issuer NORTH."""
    match = {"rules": [RULE, *rules]}
    return pipeline(
        healthlake=SECTIONS["healthlake"],
        healthimaging={"region_name": "eu-west-1"},
        publish={"issuer_systems": {"NORTH": MRN}, "patient_match": match},
        **changes,
    )


def run_of(world: World, name: str = "one", made: Any = None) -> Run:
    found = made or line()
    return Run(found, name, None, S3Uri.parse(found.source.uri), world.s3, world.ledger)


def decided(run: Run, lake: Lake, *contracts: StudyContract, site: str = "") -> list[Matched]:
    return Matcher.of(run, lake).match([Head(contract, site) for contract in contracts])


def outcomes(run: Run, lake: Lake, *contracts: StudyContract, site: str = "") -> list[str]:
    return [str(one.match.outcome) for one in decided(run, lake, *contracts, site=site)]


@pytest.fixture
def lake() -> Lake:
    found = Lake()
    found.put(ehr_patient())
    return found


class TestFacts:
    def test_the_patient_with_the_studys_number_is_found(self, world: World, lake: Lake) -> None:
        (one,) = decided(run_of(world), lake, study())
        assert (str(one.match.outcome), one.match.patient) == ("matched", "Patient/ehr")

    def test_each_number_is_asked_once(self, world: World, lake: Lake) -> None:
        run = run_of(world)
        assert outcomes(run, lake, study(), study(StudyInstanceUID="1.2.2")) == ["matched", "matched"]
        assert sorted(lake.asked) == [rf"Patient?{MRN}|P1", "ServiceRequest?A1"]

    def test_the_last_survivor_of_merges_may_have_the_order(self, world: World) -> None:
        lake = Lake()
        for name, after in (("p1", "p2"), ("p2", "p3"), ("p3", "p1")):  # and a circle ends
            link = [{"type": "replaced-by", "other": {"reference": f"Patient/{after}"}}]
            lake.put(ehr_patient(name, "P1" if name == "p1" else f"other {name}", link=link))
        lake.put(ehr_order(patient="p3"))
        assert outcomes(run_of(world), lake, study()) == ["matched"]

    def test_a_number_with_signs_of_searches_is_that_number(self, world: World, lake: Lake) -> None:
        lake.put(ehr_patient("odd", r"a,b|c$d\e"))
        assert outcomes(run_of(world), lake, study(PatientID=r"a,b|c$d\e")) == ["matched"]
        assert rf"Patient?{MRN}|a\,b\|c\$d\\e" in lake.asked

    @pytest.mark.parametrize("number", ["0", "000000", "999999", "TEST", "unknown", "Trauma 7", "123456", "-", None])
    def test_a_number_that_names_nobody_is_not_looked_for(self, world: World, lake: Lake, number: str | None) -> None:
        lake.put(ehr_patient("nobody", number or ""))
        run = run_of(world)
        assert outcomes(run, lake, study(PatientID=number, AccessionNumber=None)) == ["none"]
        assert lake.asked == []
        settings = Matcher.of(run, lake).settings
        two = (study(PatientID=number), study(PatientID=number, StudyInstanceUID="1.2.2"))
        assert len({own_patient_id(one, settings) for one in two}) == 2, "it joins no two studies"

    def test_a_patient_whose_content_has_no_clock_is_the_ehrs(self, world: World, lake: Lake) -> None:
        run = run_of(world)
        store = find_healthlake(run).datastore_id
        world.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
        claim = pl.DataFrame([(None, "Patient", "other", "d", None, None)], schema=_CLAIM, orient="row")
        world.ledger.claim_resources(store, run.pipeline.name, run.key, [claim])
        lake.put(ehr_patient("other", "P2"))
        lake.put(ehr_order(patient="other"))
        assert outcomes(run, lake, study()) == ["contradicted"]

    def test_a_patient_that_airlock_made_of_a_study_while_its_number_was_a_placeholder_is_not_the_ehrs(
        self, world: World
    ) -> None:
        lake, contract = Lake(), study(AccessionNumber=None)
        settings = Matcher.of(run_of(world), lake).settings
        lake.put(build_patient([contract], replace(settings, placeholder_ids=("P1",))))
        assert outcomes(run_of(world), lake, contract) == ["none"]

    def test_a_number_of_an_issuer_without_a_rule_is_not_looked_for(self, world: World, lake: Lake) -> None:
        assert outcomes(run_of(world), lake, study(IssuerOfPatientID="SOUTH", AccessionNumber=None)) == ["none"]
        assert lake.asked == []

    def test_a_patient_that_airlock_has_made_is_no_candidate(self, world: World) -> None:
        run, lake = run_of(world), Lake()
        own = own_patient_id(study(), Matcher.of(run, lake).settings)
        lake.put(ehr_patient(own))
        assert outcomes(run, lake, study()) == ["none"]


class TestOrders:
    def test_the_order_belongs_to_the_study(self, world: World, lake: Lake) -> None:
        lake.put(ehr_order())
        (one,) = decided(run_of(world), lake, study())
        assert one.match.order == "ServiceRequest/order"

    def test_an_order_of_another_patient_contradicts(self, world: World, lake: Lake) -> None:
        lake.put(ehr_patient("other", "P2"))
        lake.put(ehr_order(patient="other"))
        assert outcomes(run_of(world), lake, study()) == ["contradicted"]

    def test_where_nobody_has_the_number_the_orders_patient_is_read(self, world: World) -> None:
        lake = Lake()
        lake.put(ehr_patient("other", "P2"))
        lake.put(ehr_order(patient="other"))
        assert outcomes(run_of(world), lake, study()) == ["contradicted"]
        both = outcomes(run_of(world, "two"), lake, study(), study(StudyInstanceUID="1.2.2", PatientID="P2"))
        assert both == ["contradicted", "matched"], "whatever else is asked at the same time"

    @pytest.mark.parametrize("number", ["0", "NONE", "999999"])
    def test_an_accession_number_that_names_nothing_has_no_order(self, world: World, lake: Lake, number: str) -> None:
        lake.put(ehr_order("order", number, patient="other"))
        assert outcomes(run_of(world), lake, study(AccessionNumber=number)) == ["matched"]

    def test_an_order_that_was_entered_in_error_is_none(self, world: World, lake: Lake) -> None:
        lake.put(ehr_order("wrong", patient="other", status="entered-in-error"))
        lake.put(ehr_order())
        (one,) = decided(run_of(world), lake, study())
        assert (str(one.match.outcome), one.match.order) == ("matched", "ServiceRequest/order")

    @pytest.mark.parametrize("subject", ["Patient/ab_1", f"Patient/{'x' * 65}", "urn:uuid:1", "#p1", "Group/1", 7])
    def test_an_order_of_nobody_in_the_store_stops_nothing(self, world: World, lake: Lake, subject: Any) -> None:
        lake.put(ehr_order(subject={"reference": subject}))
        assert outcomes(run_of(world), lake, study()) == ["matched"]

    def test_an_identifier_that_is_no_accession_number_names_no_order(self, world: World, lake: Lake) -> None:
        lake.put(ehr_order(patient="other", identifier=[{"system": "urn:placer", "value": "A1"}]))
        assert outcomes(run_of(world), lake, study()) == ["matched"]

    @pytest.mark.parametrize(
        ("dates", "outcome"),
        [
            ({"authoredOn": "2024-03-01"}, "contradicted"),
            ({"authoredOn": "2024-03-02"}, "matched"),
            ({"authoredOn": "2014-01-30"}, "matched"),
            ({"authoredOn": "2014-01-30", "occurrenceDateTime": "2024-01-31T10:00:00Z"}, "contradicted"),
            ({"authoredOn": None}, "contradicted"),
        ],
    )
    def test_an_order_of_another_time_is_another_order(
        self, world: World, lake: Lake, dates: dict[str, str | None], outcome: str
    ) -> None:
        lake.put(ehr_patient("other", "P2"))
        lake.put(ehr_order(patient="other", **dates))
        assert outcomes(run_of(world), lake, study()) == [outcome]

    def test_of_several_sites_only_orders_of_the_studys_site_count(self, world: World, lake: Lake) -> None:
        made = line(
            {"type": "order", "site": "north", "system": "urn:north"},
            source={"site_pattern": "^in/(?P<site>[^/]+)/"},
        )
        lake.put(ehr_patient("other", "P2"))
        lake.put(ehr_order(patient="other", identifier=[{"system": "urn:south", "value": "A1"}]))
        run = run_of(world, made=made)
        assert outcomes(run, lake, study(), site="north") == ["matched"]
        lake.put(ehr_order("of-the-site", patient="other", identifier=[{"system": "urn:north", "value": "A1"}]))
        assert outcomes(run, lake, study(), site="north") == ["contradicted"]
        assert outcomes(run, lake, study(), site="south") == ["matched"], "its orders have no rule"


class TestAnswers:
    def test_a_persons_decision_counts_for_what_they_saw(self, world: World, lake: Lake) -> None:
        lake.put(ehr_patient("twin"))
        run = run_of(world)
        (one,) = decided(run, lake, study())
        assert str(one.match.outcome) == "ambiguous"
        whose = (one.identity, one.match.seen, "Patient/twin", [one.identity])
        answer = IdentityAnswer(*whose, "patient_ambiguous", "ada", "seen", datetime.now(UTC))
        world.ledger.answer_identity("nightly", find_healthlake(run).datastore_id, answer)
        (again,) = decided(run, lake, study())
        assert (again.match.patient, str(again.match.means)) == ("Patient/twin", "person")
        lake.put(ehr_patient("twin", gender="male"))
        (changed,) = decided(run, lake, study())
        assert (changed.match.patient, str(changed.match.question)) == (None, "patient_changed")


class TestCrosswalk:
    HEAD = "old_system,old_id,new_system,new_id,effective,source\n"

    def walked(self, world: World, *rows: str, head: str = HEAD) -> Run:
        world.s3.put(S3Uri("work", "lists/crosswalk.csv"), (head + "\n".join(rows)).encode(), "text/csv")
        return run_of(world, made=line({"type": "crosswalk", "uri": "s3://work/lists/crosswalk.csv"}))

    def test_a_merge_leads_to_the_new_number(self, world: World, lake: Lake) -> None:
        run = self.walked(world, f"{MRN},OLD,{MRN},P1,2020-01-01,MPI")
        (one,) = decided(run, lake, study(PatientID="OLD"))
        assert (one.match.patient, str(one.match.means)) == ("Patient/ehr", "crosswalk")

    def test_a_merge_of_a_later_day_does_not_count_yet(self, world: World, lake: Lake) -> None:
        run = self.walked(world, f"{MRN},OLD,{MRN},P1,2999-01-01,MPI")
        assert outcomes(run, lake, study(PatientID="OLD")) == ["none"]

    def test_of_two_merges_of_a_number_the_later_counts(self, world: World, lake: Lake) -> None:
        rows = (f"{MRN},OLD,{MRN},P1,2020-01-01,MPI", f"{MRN},OLD,{MRN},P9,2021-01-01,MPI")
        assert outcomes(self.walked(world, *rows), lake, study(PatientID="OLD")) == ["none"]

    def test_a_merge_is_guarded_like_a_number(self, world: World, lake: Lake) -> None:
        run = self.walked(world, f"{MRN},OLD,{MRN},P1,2020-01-01,MPI")
        assert outcomes(run, lake, study(PatientID="OLD", PatientBirthDate="19990101")) == ["unguarded"]

    def test_a_merge_into_a_placeholder_leads_nowhere(self, world: World, lake: Lake) -> None:
        lake.put(ehr_patient("nobody", "000000"))
        run = self.walked(world, f"{MRN},OLD,{MRN},000000,2020-01-01,MPI")
        assert outcomes(run, lake, study(PatientID="OLD")) == ["none"]

    def test_a_circle_of_merges_ends(self, world: World, lake: Lake) -> None:
        rows = (f"{MRN},OLD,{MRN},P1,2020-01-01,MPI", f"{MRN},P1,{MRN},OLD,2020-01-01,MPI")
        assert outcomes(self.walked(world, *rows), lake, study(PatientID="OLD")) == ["matched"]

    @pytest.mark.parametrize(
        ("head", "row", "fault"),
        [
            ("old_system,old_id\n", "a,b", "does not name the columns new_system, new_id, effective, source"),
            (HEAD, f"{MRN},OLD,{MRN},P1,01.02.2020,MPI", "has 1 lines without two identifiers and a date"),
            (HEAD, f"{MRN},OLD,{MRN},,2020-01-01,MPI", "has 1 lines without two identifiers and a date"),
        ],
    )
    def test_a_wrong_file_is_named_without_its_content(
        self, world: World, lake: Lake, head: str, row: str, fault: str
    ) -> None:
        with pytest.raises(CrosswalkError, match=fault) as raised:
            decided(self.walked(world, row, head=head), lake, study())
        assert "OLD" not in str(raised.value)

    def test_a_missing_file_is_said(self, world: World, lake: Lake) -> None:
        run = run_of(world, made=line({"type": "crosswalk", "uri": "s3://work/lists/none.csv"}))
        with pytest.raises(CrosswalkError, match="does not exist at its address"):
            decided(run, lake, study())


class TestRecords:
    """Decisions are kept in the run's dataset and in the ledger, and go from there into the contracts."""

    def matched(self, world: World, lake: Lake, *contracts: StudyContract) -> Run:
        run = run_of(world)
        matcher = Matcher.of(run, lake)
        match_studies(matcher, [read_heads(rows_of(*contracts), matcher.settings)])
        return run

    def test_a_contract_names_the_existing_patient(self, world: World, lake: Lake) -> None:
        run = self.matched(world, lake, study())
        (text,) = complete_contracts(rows_of(study()), read_matches(run), Matcher.of(run, lake).settings)["contract"]
        assert '"patient": "Patient/ehr"' in text
        assert '"Patient": "Patient/ehr"' in text

    def test_a_contradicted_study_is_left_out_and_asked_about(self, world: World, lake: Lake) -> None:
        lake.put(ehr_patient("other", "P2"))
        lake.put(ehr_order(patient="other"))
        run = self.matched(world, lake, study(), study(StudyInstanceUID="1.2.2", AccessionNumber="A2"))
        assert find_contradicted(run) == ["1.2.1"]
        settings = Matcher.of(run, lake).settings
        rows = rows_of(study(), study(StudyInstanceUID="1.2.2"))
        assert complete_contracts(rows, read_matches(run), settings)["subject"].to_list() == ["1.2.2"]
        asked = world.ledger.identity_questions()
        assert asked.select("subject", "reason").rows() == [("1.2.1", "patient_contradicted")]

    def test_a_question_is_asked_once_and_closed_when_it_is_none_any_more(self, world: World, lake: Lake) -> None:
        lake.put(ehr_patient("twin"))
        for _ in range(2):
            self.matched(world, lake, study())
        assert world.ledger.identity_questions().height == 1
        del lake.held["Patient/twin"]
        self.matched(world, lake, study())
        assert world.ledger.identity_questions().is_empty()
        lake.put(ehr_patient("twin"))
        self.matched(world, lake, study())
        assert world.ledger.identity_questions().height == 1, "it is a question again"


def rows_of(*contracts: StudyContract) -> pl.DataFrame:
    rows = [(one.StudyInstanceUID, one.study_key, 1, "digest", one.to_json()) for one in contracts]
    return pl.DataFrame(rows, schema=CONTRACTS, orient="row")
