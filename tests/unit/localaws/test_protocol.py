"""One service over HTTP: what is routed, refused and answered, whatever the handlers do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from localaws.errors import AwsError
from localaws.protocol import Call, Service

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNED = "AWS4-HMAC-SHA256 Credential=key/20261124/us-east-1/medical-imaging/aws4_request, SignedHeaders=host"


def call(method: str, path: str, body: bytes = b"", query: dict[str, list[str]] | None = None) -> Call:
    return Call(method, path, query or {}, {"authorization": SIGNED}, body)


def handled(service: Service, request: Call) -> Any:
    operation, labels = service.find(request)
    return service.handle(operation, service.parse(operation, labels, request))


def answering(name: str, handler: Callable[[dict[str, Any]], dict[str, Any]]) -> Service:
    return Service("medical-imaging", {name: handler})


def test_the_service_is_the_one_in_the_credential_scope() -> None:
    assert call("GET", "/datastore").signing_name == "medical-imaging"
    assert Call("GET", "/datastore", {}, {}, b"").signing_name is None


def test_every_operation_of_the_model_has_a_route_of_its_own() -> None:
    service = Service("medical-imaging", {})
    for name in service.model.operation_names:
        http = service.model.operation_model(name).http
        path = http["requestUri"].replace("{", "").replace("}", "")
        assert service.find(call(http["method"], path))[0].name == name


def test_an_operation_without_handler_is_validated_and_then_answers_501_with_its_name() -> None:
    service = Service("medical-imaging", {})
    with pytest.raises(AwsError) as caught:
        handled(service, call("GET", f"/datastore/{'d' * 32}"))
    answer = service.error(caught.value)
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (501, "NotImplementedException")
    assert b"GetDatastore" in bytes(answer.body)
    with pytest.raises(AwsError, match=r"\$.datastoreId"):
        handled(service, call("GET", "/datastore/short"))


def test_a_handler_for_an_unknown_operation_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="GetDataStore"):
        answering("GetDataStore", lambda _: {})


def test_an_arn_in_a_path_keeps_its_slashes() -> None:
    arn = f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/{'d' * 32}"
    service = answering("ListTagsForResource", lambda params: {"tags": {"arn": params["resourceArn"]}})
    encoded = arn.replace(":", "%3A").replace("/", "%2F")
    assert json.loads(handled(service, call("GET", f"/tags/{encoded}")).body) == {"tags": {"arn": arn}}


def test_a_list_in_the_query_is_read_whole() -> None:
    seen: list[Any] = []

    def untag(params: dict[str, Any]) -> dict[str, Any]:
        seen.append(params["tagKeys"])
        return {}

    service = answering("UntagResource", untag)
    arn = f"arn:aws:medical-imaging:us-east-1:123456789012:datastore%2F{'d' * 32}"
    handled(service, call("DELETE", f"/tags/{arn}", query={"tagKeys": ["a", "b"]}))
    assert seen == [["a", "b"]]


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[]"])
def test_a_body_that_is_no_json_object_is_a_serialization_error(body: bytes) -> None:
    service = answering("CreateDatastore", lambda _: {})
    with pytest.raises(AwsError) as caught:
        handled(service, call("POST", "/datastore", body))
    assert caught.value.code == "SerializationException"


def test_a_path_label_cannot_be_overridden_from_the_body() -> None:
    seen: list[str] = []

    def search(params: dict[str, Any]) -> dict[str, Any]:
        seen.append(params["datastoreId"])
        return {"imageSetsMetadataSummaries": []}

    body = json.dumps({"datastoreId": "e" * 32}).encode()
    handled(answering("SearchImageSets", search), call("POST", f"/datastore/{'d' * 32}/searchImageSets", body))
    assert seen == ["d" * 32]


@pytest.mark.parametrize(
    "result",
    [
        {"datastoreId": "short", "datastoreStatus": "ACTIVE"},
        {"datastoreId": "d" * 32, "datastoreStatus": "SLEEPING"},
        {"datastoreId": "d" * 32},
        {"datastoreId": "d" * 32, "datastoreStatus": "ACTIVE", "name": "not in the model"},
    ],
)
def test_a_handler_that_breaks_the_model_is_a_defect(result: dict[str, Any]) -> None:
    service = answering("DeleteDatastore", lambda _: result)
    with pytest.raises(TypeError, match="DeleteDatastore breaks the model"):
        handled(service, call("DELETE", f"/datastore/{'d' * 32}"))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ValidationException", 400),
        ("ServiceQuotaExceededException", 402),
        ("AccessDeniedException", 403),
        ("ResourceNotFoundException", 404),
        ("ConflictException", 409),
        ("ThrottlingException", 429),
        ("InternalServerException", 500),
    ],
)
def test_the_status_of_an_error_comes_from_the_model(code: str, status: int) -> None:
    answer = Service("medical-imaging", {}).error(AwsError(code, "because"))
    assert (answer.status_code, json.loads(bytes(answer.body))) == (status, {"message": "because"})


def test_the_other_service_of_the_house_fits_in_too() -> None:
    assert "StartFHIRImportJob" in Service("healthlake", {}).model.operation_names
