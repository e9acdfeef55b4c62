"""HealthLake's FHIR interface is reached through the hospital's proxy, under its authority, and while it is busy."""

from __future__ import annotations

import socket
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from botocore.config import Config
from botocore.credentials import Credentials
from urllib3.util import connection

from airlock.clinical.fhir_store import PAUSES, FhirStore, FhirStoreError
from airlock.storage.requests import RequestMeter
from healthaws.fhir import FhirEndpoint
from healthaws.refusals import Backoff
from tests.servers.network import ForwardProxy, certify_loopback, forward_proxy
from tests.unit.healthaws.fhir_service import ACCESS_KEY, SECRET_KEY, Answer, FhirService, fhir_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENT = {"resourceType": "Patient", "id": "p1"}
CREDENTIALS = Credentials(ACCESS_KEY, SECRET_KEY)
BUSY, BROKEN, DROPPED, CUT_OFF = Answer(429), Answer(500), Answer(None), Answer(200, b'{"resourceType": "Pat')
NETWORK = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")


@pytest.fixture
def service() -> Iterator[FhirService]:
    with fhir_service() as running:
        yield running
    assert not running.script, "not everything was asked for"
    assert all(asked.signature_is_valid for asked in running.asked)


def store(service: FhirService, pauses: list[float] | None = None) -> FhirStore:
    pause = (pauses if pauses is not None else []).append
    return FhirStore(service.url, CREDENTIALS, "eu-west-1", RequestMeter(), pause)


def read(service: FhirService) -> Any:
    return store(service).read("Patient", "p1")


def read_by_hook(service: FhirService) -> Any:
    endpoint = FhirEndpoint(
        service.url,
        CREDENTIALS,
        "eu-west-1",
        config=Config(),
        verify=None,
        max_attempts=1,
        backoff=Backoff(0, 0),
    )
    return endpoint.send("read Patient", "GET", "Patient/p1").body


READERS = pytest.mark.parametrize("reader", [read, read_by_hook])


@pytest.mark.parametrize("bad", [BUSY, BROKEN, Answer(503, b"<html>"), DROPPED, CUT_OFF])
def test_a_busy_store_is_asked_again_and_each_try_counts(bad: Answer, service: FhirService) -> None:
    service.says(bad, bad, Answer(200, PATIENT | {"multipleBirthInteger": 2}))
    pauses: list[float] = []
    patient = store(service, pauses)
    assert patient.read("Patient", "p1") is not None
    assert pauses == list(PAUSES[:2])
    assert patient.meter.sent == {"ReadResource": 3}


def test_a_store_that_stays_busy_ends_the_command_without_naming_anybody(service: FhirService) -> None:
    service.says(*[BUSY] * (len(PAUSES) + 1))
    with pytest.raises(FhirStoreError, match=r"ReadResource of Patient failed \(HTTP 429\)") as caught:
        read(service)
    assert "p1" not in str(caught.value)


def test_a_refusal_is_not_repeated(service: FhirService) -> None:
    service.says(Answer(403))
    with pytest.raises(FhirStoreError, match="Check the credentials and the right healthlake:ReadResource"):
        read(service)


def test_what_is_gone_is_none_and_decimals_keep_their_digits(service: FhirService) -> None:
    service.says(Answer(404), Answer(410), Answer(200, b'{"value": 1.10}'))
    assert read(service) is None
    assert read(service) is None
    assert read(service) == {"value": Decimal("1.10")}


@pytest.fixture
def proxy() -> Iterator[ForwardProxy]:
    with forward_proxy() as running:
        yield running


@pytest.fixture
def secure(service: FhirService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FhirService:
    """The service under the certificate of the hospital's own authority, which the environment does not name yet."""
    for name in NETWORK:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    _, context = certify_loopback(tmp_path)
    service.use_certificate(context)
    return service


@READERS
def test_a_body_does_not_wait_for_the_confirmation_of_its_head(
    reader: Callable[[FhirService], Any], service: FhirService, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[int, int, int]] = []
    set_options = connection._set_socket_options

    def set_and_note(sock: socket.socket, options: list[tuple[int, int, int]]) -> None:
        chosen.extend(options)
        set_options(sock, options)

    monkeypatch.setattr(connection, "_set_socket_options", set_and_note)
    service.says(Answer(200, PATIENT))
    reader(service)
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in chosen


@READERS
@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_the_hospitals_authority_is_trusted(
    reader: Callable[[FhirService], Any],
    variable: str,
    secure: FhirService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "authority.pem"))
    secure.says(Answer(200, PATIENT))
    assert reader(secure) == PATIENT


def test_the_authority_of_the_aws_profile_is_trusted(
    secure: FhirService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[default]\nca_bundle = {tmp_path / 'authority.pem'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    secure.says(Answer(200, PATIENT))
    assert read(secure) == PATIENT


def test_an_unknown_authority_is_refused_with_the_remedy(secure: FhirService) -> None:
    with pytest.raises(FhirStoreError, match=r"failed \(SSLError\). Check the certificate authority in AWS_CA_BUNDLE"):
        read(secure)
    assert secure.asked == []


@READERS
def test_the_hospitals_proxy_is_used(
    reader: Callable[[FhirService], Any],
    secure: FhirService,
    proxy: ForwardProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    secure.says(Answer(200, PATIENT), Answer(200, PATIENT))
    assert reader(secure) == PATIENT
    assert proxy.tunnels == [f"127.0.0.1:{secure.server_port}"]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert reader(secure) == PATIENT
    assert len(proxy.tunnels) == 1


def test_a_proxy_that_is_away_is_named(secure: FhirService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(FhirStoreError, match=r"failed \(ProxyConnectionError\). Check the proxy in HTTPS_PROXY"):
        read(secure)


def test_a_resource_is_validated_as_its_text_and_by_the_profile_asked_for(service: FhirService) -> None:
    service.says(Answer(200, {"resourceType": "OperationOutcome", "issue": []}), BUSY, Answer(200, {"issue": []}))
    asking = store(service)
    body = '{"resourceType": "Observation", "id": "o1", "valueQuantity": {"value": 1.10}}'
    assert asking.validate(body)["resourceType"] == "OperationOutcome"
    asking.validate(body, "http://hospital.example/p?x=1|2")
    first, second, _ = service.asked
    assert (first.method, first.path.rpartition("/r4/")[2], first.query) == ("POST", "Observation/$validate", "")
    assert first.headers["Content-Type"] == "application/fhir+json"
    assert second.query == "profile=http%3A%2F%2Fhospital.example%2Fp%3Fx%3D1%7C2"
    assert asking.meter.sent == {"ValidateResource": 3}


def test_a_refused_validation_says_with_which_status(service: FhirService) -> None:
    service.says(Answer(400))
    with pytest.raises(FhirStoreError, match=r"ValidateResource of Patient failed \(HTTP 400\)") as caught:
        store(service).validate('{"resourceType": "Patient", "id": "p1"}')
    assert caught.value.status == 400
    assert "p1" not in str(caught.value)


def test_what_is_searched_for_is_in_no_address(service: FhirService) -> None:
    link = {"relation": "next", "url": "https://h/r4/Patient?identifier=urn%3Ax%7C4711&page=AA+e=="}
    pages = [{"entry": [{"resource": PATIENT}], "link": [link]}, {"entry": [{"resource": PATIENT | {"id": "p2"}}]}]
    service.says(*(Answer(200, one) for one in pages))
    asking = store(service)
    assert [one["id"] for one in asking.search("Patient", {"identifier": "urn:x|4711"})] == ["p1", "p2"]
    for asked in service.asked:
        assert (asked.method, asked.path, asked.query) == ("POST", "Patient/_search", "")
        assert asked.headers["Content-Type"] == "application/x-www-form-urlencoded"
    forms = [asked.body for asked in service.asked]
    assert forms == ["identifier=urn%3Ax%7C4711", "identifier=urn%3Ax%7C4711&page=AA%2Be%3D%3D"]
    assert asking.meter.sent == {"SearchWithPost": 2}
