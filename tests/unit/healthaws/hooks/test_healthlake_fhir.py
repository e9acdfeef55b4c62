from __future__ import annotations

import json
import traceback
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from botocore.stub import Stubber

from healthaws.exceptions import (
    FhirConflictError,
    FhirRejectedError,
    FhirUnavailableError,
    FinalError,
    IncompleteReplyError,
)
from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
from healthaws.refusals import Backoff
from tests.servers.network import certify_loopback
from tests.unit.healthaws.fhir_service import ACCESS_KEY, SECRET_KEY, Answer, FhirService, fhir_service, issue, outcome
from tests.unit.healthaws.healthlake import STORE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET_ID = "mrn-4711"
PATIENT = {"resourceType": "Patient", "id": SECRET_ID, "name": [{"family": "Müller"}]}
STORED = {**PATIENT, "meta": {"versionId": "1"}}
DROPPED = Answer(None)
BUSY = Answer(429, outcome(issue("throttled")))
BROKEN = Answer(500, outcome(issue("exception")))
ATTEMPTS = 3


@pytest.fixture(scope="module")
def server() -> Iterator[FhirService]:
    with fhir_service() as server:
        yield server


@pytest.fixture
def service(server: FhirService) -> Iterator[FhirService]:
    server.says()
    yield server
    assert not server.script, "not everything was asked for"
    assert all(asked.signature_is_valid for asked in server.asked)


def hook_for(server: FhirService, **more: Any) -> HealthLakeFhirHook:
    """Make a hook that has asked for its endpoint already."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        given = {"aws_conn_id": None, "region_name": "eu-west-1", "max_attempts": ATTEMPTS, "backoff": Backoff(0, 0)}
        hook = HealthLakeFhirHook(STORE, **{**given, **more})
        properties = {
            "DatastoreId": STORE,
            "DatastoreArn": f"arn:aws:healthlake:eu-west-1:123456789012:datastore/fhir/{STORE}",
            "DatastoreStatus": "ACTIVE",
            "DatastoreTypeVersion": "R4",
            "DatastoreEndpoint": server.url,
        }
        with Stubber(hook.conn) as stub:
            stub.add_response("describe_fhir_datastore", {"DatastoreProperties": properties}, {"DatastoreId": STORE})
            assert hook.endpoint.url == server.url
    return hook


@pytest.mark.parametrize("profile", ["default", "hospital"])
def test_the_authority_of_the_connections_profile_is_trusted(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of the same connection trusts it: so must the requests to the endpoint."""
    _, context = certify_loopback(tmp_path)
    section = "default" if profile == "default" else f"profile {profile}"
    keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}"
    (tmp_path / "config").write_text(f"[{section}]\n{keys}\nca_bundle = {tmp_path / 'authority.pem'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    extra = {} if profile == "default" else {"profile_name": profile}
    monkeypatch.setenv("AIRFLOW_CONN_HOSPITAL", json.dumps({"conn_type": "aws", "extra": extra}))
    with fhir_service() as secure:
        secure.use_certificate(context)
        secure.says(Answer(200, STORED))
        assert hook_for(secure, aws_conn_id="hospital").read("Patient", "p1") == STORED


@pytest.fixture(scope="module")
def one_hook(server: FhirService) -> HealthLakeFhirHook:
    return hook_for(server)


@pytest.fixture
def hook(one_hook: HealthLakeFhirHook, service: FhirService) -> HealthLakeFhirHook:
    return one_hook


def page(*ids: str, next_url: str | None = None) -> dict[str, Any]:
    links = [{"relation": "self", "url": "x"}, *([{"relation": "next", "url": next_url}] if next_url else [])]
    entries = [{"resource": {"resourceType": "Patient", "id": name}, "search": {"mode": "match"}} for name in ids]
    return {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries}


class TestRead:
    def test_returns_the_resource(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(200, STORED))
        assert hook.read("Patient", SECRET_ID) == STORED
        assert (service.asked[0].method, service.asked[0].path) == ("GET", f"Patient/{SECRET_ID}")

    @pytest.mark.parametrize("status", [404, 410])
    def test_finds_nothing_where_none_ever_was_and_where_it_was_deleted(
        self, status: int, hook: HealthLakeFhirHook, service: FhirService
    ) -> None:
        service.says(Answer(status, outcome(issue("not-found"))))
        assert hook.read("Patient", SECRET_ID) is None

    @pytest.mark.parametrize("digits", ["100000000000000000000.5", "1.10", "1e2", "0.0000001"])
    def test_decimals_keep_their_digits(self, digits: str, hook: HealthLakeFhirHook, service: FhirService) -> None:
        text = f'{{"resourceType":"Observation","id":"o1","valueQuantity":{{"value":{digits}}}}}'
        service.says(Answer(200, text.encode()), Answer(200, text.encode()))
        found = hook.read("Observation", "o1")
        assert found is not None
        value = found["valueQuantity"]["value"]
        assert (type(value), value.as_tuple()) == (Decimal, Decimal(digits).as_tuple())
        hook.update(found)
        assert service.asked[1].body == json.loads(text, parse_float=Decimal)
        assert service.asked[1].body["valueQuantity"]["value"].as_tuple() == value.as_tuple()

    def test_a_number_beyond_all_range_breaks_no_task_in_an_unforeseen_way(
        self, hook: HealthLakeFhirHook, service: FhirService
    ) -> None:
        service.says(*[Answer(200, b'{"a":1.5e99999999999999999999}')] * ATTEMPTS)
        with pytest.raises(FhirUnavailableError):
            hook.read("Patient", SECRET_ID)

    def test_of_an_earlier_version(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(200, STORED))
        assert hook.read("Patient", SECRET_ID, "1") == STORED
        assert service.asked[0].path == f"Patient/{SECRET_ID}/_history/1"

    @pytest.mark.parametrize("resource_id", ["..", ".", "a/b", "a?b", "a b", "", "x" * 65, "é"])
    def test_sends_no_id_that_would_lead_elsewhere(self, resource_id: str, hook: HealthLakeFhirHook) -> None:
        with pytest.raises(ValueError, match="The id of the Patient is not valid in FHIR"):
            hook.read("Patient", resource_id)

    def test_sends_no_type_that_would_lead_elsewhere(self, hook: HealthLakeFhirHook) -> None:
        with pytest.raises(ValueError, match="'Patient/1' is not a resource type"):
            hook.read("Patient/1", "1")


class TestCreate:
    def test_returns_what_was_stored(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(201, STORED, {"ETag": 'W/"1"'}))
        assert hook.create(PATIENT, validation_level="structure-only") == STORED
        asked = service.asked[0]
        assert (asked.method, asked.path, asked.body) == ("POST", "Patient", PATIENT)
        assert asked.headers["Content-Type"] == "application/fhir+json"
        assert asked.headers["x-amzn-healthlake-fhir-validation-level"] == "structure-only"

    def test_names_each_request_anew(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(201, STORED), Answer(201, STORED))
        hook.create(PATIENT)
        hook.create(PATIENT)
        keys = {uuid.UUID(asked.headers["x-amz-fhir-idempotency-key"]) for asked in service.asked}
        assert len(keys) == 2

    @pytest.mark.parametrize(
        "place", [f"Patient/{SECRET_ID}", f"https://h/datastore/d/r4/Patient/{SECRET_ID}/_history/1"]
    )
    def test_lost_answer_creates_no_second_resource(
        self, place: str, hook: HealthLakeFhirHook, service: FhirService
    ) -> None:
        duplicate = Answer(409, outcome(issue("duplicate")), {"Location": place})
        service.says(DROPPED, duplicate, Answer(200, STORED))
        assert hook.create(PATIENT) == STORED
        first, second, read = service.asked
        assert first.headers["x-amz-fhir-idempotency-key"] == second.headers["x-amz-fhir-idempotency-key"]
        assert read.path == f"Patient/{SECRET_ID}"

    def test_takes_the_original_from_the_answer_where_aws_documents_it(
        self, hook: HealthLakeFhirHook, service: FhirService
    ) -> None:
        service.says(Answer(409, STORED))
        assert hook.create(PATIENT, idempotency_key=str(uuid.uuid4())) == STORED

    def test_conflict_without_an_original_is_one(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(409, outcome(issue("conflict"))))
        with pytest.raises(FhirConflictError, match="create Patient: HTTP 409: conflict"):
            hook.create(PATIENT)

    def test_rejection_carries_status_codes_and_elements(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        found = outcome(
            issue("value", expression=["Patient.birthDate"], diagnostics=f"'{SECRET_ID}' is no date"),
            issue("structure", location=["Patient.name[0]"]),
            issue("informational", "information"),
        )
        service.says(Answer(400, found))
        with pytest.raises(FhirRejectedError) as caught:
            hook.create(PATIENT)
        assert str(caught.value) == (
            "create Patient: HTTP 400: value at Patient.birthDate, structure at Patient.name[0], informational"
        )
        assert (caught.value.status, [found.code for found in caught.value.issues]) == (
            400,
            ["value", "structure", "informational"],
        )
        assert isinstance(caught.value, FinalError)


class TestUpdate:
    @pytest.mark.parametrize("status", [200, 201])
    def test_puts_the_resource_under_its_id(self, status: int, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(status, STORED))
        assert hook.update(PATIENT) == STORED
        asked = service.asked[0]
        assert (asked.method, asked.path, asked.body) == ("PUT", f"Patient/{SECRET_ID}", PATIENT)
        assert "If-Match" not in asked.headers

    def test_may_depend_on_a_version(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(412, outcome(issue("conflict"))))
        with pytest.raises(FhirConflictError, match="update Patient: HTTP 412") as caught:
            hook.update(PATIENT, if_match="3")
        assert service.asked[0].headers["If-Match"] == 'W/"3"'
        assert not isinstance(caught.value, FinalError)

    @pytest.mark.parametrize("lost", [DROPPED, BROKEN])
    def test_is_repeated_unless_it_depends_on_a_version(
        self, lost: Answer, hook: HealthLakeFhirHook, service: FhirService
    ) -> None:
        service.says(lost, Answer(200, STORED))
        assert hook.update(PATIENT) == STORED
        service.says(lost)
        with pytest.raises(FhirUnavailableError):
            hook.update(PATIENT, if_match="1")
        assert len(service.asked) == 1

    def test_throttled_request_is_repeated_even_then(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(BUSY, Answer(200, STORED))
        assert hook.update(PATIENT, if_match="1") == STORED


class TestDelete:
    @pytest.mark.parametrize("status", [204, 200, 404, 410])
    def test_leaves_nothing_there(self, status: int, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(status))
        hook.delete("Patient", SECRET_ID)
        assert (service.asked[0].method, service.asked[0].path) == ("DELETE", f"Patient/{SECRET_ID}")

    def test_may_be_forbidden(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(403, {"message": f"not authorized on {SECRET_ID}"}))
        with pytest.raises(FhirRejectedError, match=r"^delete Patient: HTTP 403: no OperationOutcome$"):
            hook.delete("Patient", SECRET_ID)


class TestSearch:
    def test_follows_the_pages_and_encodes_their_token(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        elsewhere = "https://healthlake.eu-west-1.amazonaws.com/datastore/d/r4/Patient?_count=2&page=AAMA+e/fI=="
        service.says(Answer(200, page("a", "b", next_url=elsewhere)), Answer(200, page("c")))
        assert [found["id"] for found in hook.search("Patient", {"_count": 2})] == ["a", "b", "c"]
        assert [asked.body for asked in service.asked] == ["_count=2", "_count=2&page=AAMA%2Be%2FfI%3D%3D"]
        for asked in service.asked:
            assert (asked.method, asked.path, asked.query) == ("POST", "Patient/_search", "")
            assert asked.headers["Content-Type"] == "application/x-www-form-urlencoded"

    def test_encodes_what_is_searched_for(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(200, page()))
        params = {"identifier": "urn:oid:1.2|a b+c", "date": ["ge2026", "lt2027"], "family": None}
        assert list(hook.search("Patient", params)) == []
        assert service.asked[0].body == "identifier=urn%3Aoid%3A1.2%7Ca%20b%2Bc&date=ge2026&date=lt2027"

    def test_yields_what_is_included_but_no_outcome(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        found = page("a")
        found["entry"] += [
            {"resource": {"resourceType": "Endpoint", "id": "e"}, "search": {"mode": "include"}},
            {"resource": outcome(), "search": {"mode": "outcome"}},
        ]
        service.says(Answer(200, found))
        assert [resource["resourceType"] for resource in hook.search("Patient", {})] == ["Patient", "Endpoint"]

    def test_asks_for_a_page_only_when_it_is_wanted(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(200, page("a", next_url="https://h/Patient?page=2")))
        assert next(hook.search("Patient", {}))["id"] == "a"

    def test_pages_that_go_round_in_a_circle_end(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(
            Answer(200, page("a", next_url="https://h/Patient?page=2")),
            Answer(200, page("b", next_url="https://h/Patient?page=3")),
            Answer(200, page("c", next_url="https://h/Patient?page=2")),
        )
        with pytest.raises(IncompleteReplyError, match="a second time"):
            list(hook.search("Patient", {}))

    def test_unknown_parameter(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(400, outcome(issue("not-supported"))))
        with pytest.raises(FhirRejectedError, match="search Patient: HTTP 400: not-supported"):
            list(hook.search("Patient", {"colour": "blue"}))


def bundle(*methods: str, kind: str = "batch", **more: str) -> dict[str, Any]:
    entries = [{"resource": PATIENT, "request": {"method": method, "url": "Patient", **more}} for method in methods]
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


class TestBundle:
    ANSWERED = {"resourceType": "Bundle", "type": "transaction-response", "entry": []}  # noqa: RUF012 - never changed

    def test_is_answered_by_a_bundle(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(200, self.ANSWERED))
        assert hook.bundle(bundle("PUT"), validation_level="minimal") == self.ANSWERED
        asked = service.asked[0]
        assert (asked.method, asked.path, asked.body) == ("POST", "", bundle("PUT"))
        assert asked.headers["x-amzn-healthlake-fhir-validation-level"] == "minimal"
        assert "Prefer" not in asked.headers

    def test_is_asked_for_until_it_is_done(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        place = {"content-location": "https://healthlake.eu-west-1.amazonaws.com/datastore/d/r4/Transaction/t-1"}
        service.says(
            Answer(202, outcome(), place),
            Answer(202, outcome()),
            BUSY,
            Answer(202, outcome()),
            Answer(200, self.ANSWERED),
        )
        assert hook.bundle(bundle("POST", kind="transaction"), asynchronous=True, poll_delay=0) == self.ANSWERED
        assert service.asked[0].headers["Prefer"] == "respond-async"
        assert {(asked.method, asked.path) for asked in service.asked[1:]} == {("GET", "Transaction/t-1")}

    def test_is_not_asked_for_longer_than_told(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(202, outcome(), {"content-location": "Transaction/t-1"}))
        with pytest.raises(FhirUnavailableError, match="transaction Bundle: HTTP 202: not done in time"):
            hook.bundle(bundle("POST", kind="transaction"), asynchronous=True, poll_delay=0, timeout=0)

    def test_whose_result_has_no_place(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(202, outcome()))
        with pytest.raises(IncompleteReplyError, match="does not name the address"):
            hook.bundle(bundle("POST"), asynchronous=True)

    def test_of_too_many_entries(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(422, outcome(issue("too-costly"))))
        with pytest.raises(FhirRejectedError, match="transaction Bundle: HTTP 422: too-costly"):
            hook.bundle(bundle("PUT", kind="transaction"))

    @pytest.mark.parametrize("asked", [bundle("PUT", "GET", "DELETE"), bundle()])
    def test_lost_answer_is_asked_for_again_where_it_does_no_harm(
        self, asked: dict[str, Any], hook: HealthLakeFhirHook, service: FhirService
    ) -> None:
        service.says(DROPPED, Answer(200, self.ANSWERED))
        assert hook.bundle(asked) == self.ANSWERED

    @pytest.mark.parametrize("asked", [bundle("PUT", "POST"), bundle("PUT", ifMatch='W/"1"'), bundle("PATCH")])
    def test_lost_answer_is_an_error_where_the_bundle_would_be_carried_out_twice(
        self, asked: dict[str, Any], hook: HealthLakeFhirHook, service: FhirService
    ) -> None:
        service.says(DROPPED)
        with pytest.raises(FhirUnavailableError, match="batch Bundle"):
            hook.bundle(asked)
        assert len(service.asked) == 1


class TestValidate:
    @pytest.mark.parametrize("verdict", [issue("invalid"), issue("informational", "information")])
    def test_returns_the_outcome_whatever_it_is(
        self, verdict: dict[str, Any], hook: HealthLakeFhirHook, service: FhirService
    ) -> None:
        service.says(Answer(200, outcome(verdict)))
        assert hook.validate(PATIENT) == outcome(verdict)
        asked = service.asked[0]
        assert (asked.method, asked.path, asked.query, asked.body) == ("POST", "Patient/$validate", "", PATIENT)

    def test_names_profile_and_mode(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(200, outcome()))
        hook.validate(PATIENT, "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient", "create")
        profile = "http%3A%2F%2Fhl7.org%2Ffhir%2Fus%2Fcore%2FStructureDefinition%2Fus-core-patient"
        assert service.asked[0].query == f"profile={profile}&mode=create"

    def test_against_an_unknown_profile(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(404, outcome(issue("not-found"))))
        with pytest.raises(FhirRejectedError, match="validate Patient: HTTP 404: not-found"):
            hook.validate(PATIENT, "http://example.org/none")


def read(hook: HealthLakeFhirHook) -> Any:
    return hook.read("Patient", SECRET_ID)


class TestAttempts:
    CUT_OFF = Answer(200, b'{"resourceType": "Pat')

    @pytest.mark.parametrize("bad", [BUSY, BROKEN, Answer(503, b"<html>"), DROPPED, CUT_OFF])
    def test_are_repeated(self, bad: Answer, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(bad, bad, Answer(200, STORED))
        assert read(hook) == STORED

    @pytest.mark.parametrize(
        ("bad", "told"),
        [
            (BUSY, "HTTP 429: throttled"),
            (BROKEN, "HTTP 500: exception"),
            (Answer(503, b"<html>", {"Content-Type": "text/html"}), "HTTP 503: no OperationOutcome"),
            (DROPPED, "no answer: ConnectionClosedError"),
            (CUT_OFF, "no answer: the reply broke off"),
        ],
    )
    def test_have_an_end(self, bad: Answer, told: str, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(*[bad] * ATTEMPTS)
        with pytest.raises(FhirUnavailableError) as caught:
            read(hook)
        assert str(caught.value) == f"read Patient: {told}"
        assert not isinstance(caught.value, FinalError)

    def test_last_as_long_as_the_botocore_client_is_told(self, service: FhirService) -> None:
        hook = hook_for(service, config={"read_timeout": 0.1}, max_attempts=1)
        service.says(Answer(late=True))
        with pytest.raises(FhirUnavailableError, match="read Patient: no answer: ReadTimeoutError"):
            read(hook)
        service.patience_is_over.set()

    def test_reply_without_a_resource(self, hook: HealthLakeFhirHook, service: FhirService) -> None:
        service.says(Answer(200))
        with pytest.raises(IncompleteReplyError, match="read Patient: the reply has no resource"):
            read(hook)


@pytest.mark.parametrize(
    "ask",
    [
        read,
        lambda hook: hook.create(PATIENT),
        lambda hook: hook.update(PATIENT),
        lambda hook: hook.delete("Patient", SECRET_ID),
        lambda hook: list(hook.search("Patient", {"identifier": SECRET_ID})),
        lambda hook: hook.validate(PATIENT),
    ],
)
@pytest.mark.parametrize(
    "answers",
    [
        [
            Answer(
                400, outcome(issue("invalid", diagnostics=f"Patient/{SECRET_ID} Müller", location=[f"'{SECRET_ID}'"]))
            )
        ],
        [Answer(400, outcome(issue(f"bad code {SECRET_ID}", f"{SECRET_ID}")))],
        [DROPPED] * ATTEMPTS,
    ],
)
def test_no_error_tells_who_the_patient_is(
    ask: Callable[[HealthLakeFhirHook], Any], answers: list[Answer], hook: HealthLakeFhirHook, service: FhirService
) -> None:
    service.says(*answers)
    with pytest.raises((FhirRejectedError, FhirUnavailableError)) as caught:
        ask(hook)
    shown = "".join(traceback.format_exception(caught.value))
    told = [line for line in shown.splitlines() if not line.startswith("    ")]  # without the lines of source
    assert not any(SECRET_ID in line or "Müller" in line for line in told)
