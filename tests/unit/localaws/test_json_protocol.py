"""A service that speaks JSON 1.0: what is routed, refused and answered, whatever the handlers do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localaws.errors import AwsError
from localaws.json_protocol import JsonService
from localaws.protocol import Call

DATASTORE = "d" * 32


def call(target: str, body: bytes = b"{}", method: str = "POST", path: str = "/") -> Call:
    return Call(method, path, {}, {"x-amz-target": target}, body)


def handled(service: JsonService, request: Call) -> Any:
    operation, labels = service.find(request)
    return service.handle(operation, service.parse(operation, labels, request))


def test_every_operation_of_the_model_is_found_by_its_target() -> None:
    service = JsonService("healthlake", {})
    for name in service.model.operation_names:
        assert service.find(call(f"HealthLake.{name}"))[0].name == name


@pytest.mark.parametrize(
    "request_",
    [
        call("HealthLake.DescribeFHIRStore"),
        call("Imaging.DescribeFHIRDatastore"),
        call("DescribeFHIRDatastore"),
        call(""),
        call("HealthLake.DescribeFHIRDatastore", method="GET"),
        call("HealthLake.DescribeFHIRDatastore", path="/datastore"),
    ],
)
def test_anything_else_is_no_operation(request_: Call) -> None:
    service = JsonService("healthlake", {})
    with pytest.raises(AwsError) as caught:
        service.find(request_)
    assert (caught.value.code, service.error(caught.value).status_code) == ("UnknownOperationException", 400)


def test_an_operation_without_handler_is_validated_and_then_answers_501_with_its_name() -> None:
    service = JsonService("healthlake", {})
    body = json.dumps({"DatastoreId": DATASTORE}).encode()
    with pytest.raises(AwsError) as caught:
        handled(service, call("HealthLake.DescribeFHIRDatastore", body))
    answer = service.error(caught.value)
    assert (answer.status_code, json.loads(bytes(answer.body))["__type"]) == (501, "NotImplementedException")
    assert b"DescribeFHIRDatastore" in bytes(answer.body)
    with pytest.raises(AwsError, match=r"\$.DatastoreId: is required"):
        handled(service, call("HealthLake.DescribeFHIRDatastore"))


@pytest.mark.parametrize("name", ["StartFHIRImportJob", "ListFHIRImportJobs", "DescribeFHIRImportJob"])
def test_patterns_that_python_s_own_expressions_do_not_know_are_checked(name: str) -> None:
    body = json.dumps({"DatastoreId": "semi;colon", "JobId": "a", "JobName": "comma,"}).encode()
    with pytest.raises(AwsError, match=r"\$.DatastoreId: must satisfy the pattern"):
        handled(JsonService("healthlake", {}), call(f"HealthLake.{name}", body))


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[]", b'"text"'])
def test_a_body_that_is_no_json_object_is_a_serialization_error(body: bytes) -> None:
    with pytest.raises(AwsError) as caught:
        handled(JsonService("healthlake", {}), call("HealthLake.ListFHIRDatastores", body))
    assert caught.value.code == "SerializationException"


def test_an_answer_has_the_type_of_the_protocol() -> None:
    service = JsonService("healthlake", {"ListFHIRDatastores": lambda _: {"DatastorePropertiesList": []}})
    answer = handled(service, call("HealthLake.ListFHIRDatastores"))
    assert answer.headers["content-type"] == "application/x-amz-json-1.0"
    assert json.loads(answer.body) == {"DatastorePropertiesList": []}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ValidationException", 400),
        ("AccessDeniedException", 400),
        ("ResourceNotFoundException", 400),
        ("ConflictException", 400),
        ("ThrottlingException", 400),
        ("FailedDependencyException", 400),
        ("ServiceQuotaExceededException", 400),
        ("InternalServerException", 500),
    ],
)
def test_an_error_names_itself_in_header_and_body(code: str, status: int) -> None:
    answer = JsonService("healthlake", {}).error(AwsError(code, "because"))
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (status, code)
    assert json.loads(bytes(answer.body)) == {"__type": code, "Message": "because"}
