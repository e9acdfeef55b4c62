from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from healthaws.refusals import Backoff, Refusals, is_busy, is_role_pending, rejection


def client_error(
    code: str, message: str = "", operation: str = "StartDICOMImportJob", status: int = 400
) -> ClientError:
    reply = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(reply, operation)


class TestBackoff:
    def test_doubles_up_to_the_maximum(self) -> None:
        backoff = Backoff(initial=10, maximum=60)
        for refusals, longest in [(1, 10), (2, 20), (3, 40), (4, 60), (5000, 60)]:
            delays = [backoff.delay(refusals) for _ in range(200)]
            assert longest / 2 <= min(delays) <= max(delays) <= longest

    def test_spreads_out_tasks_that_were_refused_together(self) -> None:
        delays = {round(Backoff(initial=10).delay(1), 3) for _ in range(100)}
        assert len(delays) > 50


def test_refusals_remember_when_the_first_came(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    refusals = Refusals().one_more()
    now = 1060.0
    assert refusals.one_more() == Refusals(2, 1000.0)
    assert refusals.seconds == 60


@pytest.mark.parametrize(
    ("code", "status", "busy"),
    [
        ("ThrottlingException", 429, True),
        ("ThrottlingException", 400, True),
        ("TooManyRequestsException", 400, True),
        ("ServiceQuotaExceededException", 400, True),
        ("ServiceQuotaExceededException", 402, True),
        (" ServiceQuotaExceededException", 402, True),
        ("ValidationException", 400, False),
        ("InternalServerException", 500, False),
    ],
)
def test_busy(code: str, status: int, busy: bool) -> None:
    assert is_busy(client_error(code, status=status).response) is busy


@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException"])
@pytest.mark.parametrize("text", ["The service cannot assume role r", "role is not assumable"])
def test_role_pending(code: str, text: str) -> None:
    assert is_role_pending(client_error(code, text))


@pytest.mark.parametrize(
    "error",
    [
        client_error("AccessDeniedException", "not authorized to perform: iam:PassRole"),
        client_error("ValidationException", "inputS3Uri is not valid"),
        client_error("InternalServerException", "cannot assume role"),
        client_error("AccessDeniedException", "not authorized to perform: sts:AssumeRole", "AssumeRole"),
        client_error("AccessDeniedException", "cannot assume role", "GetDICOMImportJob"),
    ],
)
def test_other_errors_are_not_about_a_fresh_role(error: ClientError) -> None:
    assert not is_role_pending(error)


@pytest.mark.parametrize("code", ["ValidationException", "AccessDeniedException", "ResourceNotFoundException"])
def test_rejection_carries_the_words_of_the_service(code: str) -> None:
    rejected = rejection(client_error(code, "no such data store"))
    assert str(rejected) == f"StartDICOMImportJob was rejected: {code}: no such data store"


@pytest.mark.parametrize("code", ["InternalServerException", "ThrottlingException", "ConflictException"])
def test_the_rest_is_left_to_airflow(code: str) -> None:
    assert rejection(client_error(code)) is None
