"""Checks are bounded in time, wait for those that they need, and say what kept them from an answer."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from airlock.ledger import LedgerError
from airlock.stages.doctor.attempts import CheckUnableError, make_checks
from airlock.stages.doctor.findings import Check, Finding, Result, failed, not_made, passed

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 30.0


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What a server that never answers would set; it is set when the test is over, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


def check(name: str, finding: Finding | BaseException, *needs: str, right: str = "") -> Check:
    def look() -> Finding:
        if isinstance(finding, BaseException):
            raise finding
        return finding

    return Check(name, "it", look, tuple(f"{need} it" for need in needs), right)


def results(*checks: Check, seconds: float = LONG) -> list[tuple[Result, str, str]]:
    return [(found.result, found.found, found.fix) for _, found in make_checks(checks, seconds)]


def test_a_check_that_never_ends_becomes_a_warning_and_holds_up_no_other(never: threading.Event) -> None:
    def wait() -> Finding:
        never.wait()
        return passed("too late")

    began = monotonic()
    found = results(Check("a", "it", wait), check("b", passed("fine")), seconds=0.05)
    assert monotonic() - began < LONG
    assert [result for result, _, _ in found] == [Result.WARN, Result.PASS]
    assert "no answer within 0.05 seconds" in found[0][1]


def test_what_needs_a_failed_check_is_not_made_and_names_it() -> None:
    found = results(check("a", failed("broken", "cure")), check("b", passed("x"), "a"), check("c", passed("x"), "b"))
    assert [result for result, _, _ in found] == [Result.FAIL, Result.NOT_MADE, Result.NOT_MADE]
    assert {text for _, text, _ in found[1:]} == {"First cure: a it."}


def test_what_needs_a_check_that_was_not_made_has_its_reason() -> None:
    found = results(check("a", not_made("no such thing")), check("b", passed("x"), "a"))
    assert found[1][:2] == (Result.NOT_MADE, "no such thing")


def test_a_check_that_needs_one_that_only_warns_is_made() -> None:
    found = results(check("a", CheckUnableError("asleep\nwake it")), check("b", passed("x"), "a"))
    assert found == [(Result.WARN, "Not checked: asleep", "wake it"), (Result.PASS, "x", "")]


def denied(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "CANARY"}}, "GetThing")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (denied("AccessDenied"), "AWS refuses the look (AccessDenied)"),
        (denied("403"), "AWS refuses the look (403)"),
        (denied("Throttling"), "AWS answers Throttling"),
        (EndpointConnectionError(endpoint_url="http://CANARY"), "AWS does not answer (EndpointConnectionError)"),
        (NoCredentialsError(), "boto3 finds no credentials"),
        (LedgerError("the ledger sleeps"), "the ledger sleeps"),
    ],
)
def test_what_keeps_a_check_from_an_answer_is_a_warning_and_never_a_pass(error: Exception, told: str) -> None:
    ((result, found, fix),) = results(check("a", error, right="s3:GetThing"))
    assert result is Result.WARN
    assert told in found
    assert "CANARY" not in found + fix
    assert ("s3:GetThing (iam/doctor-policy.json)" in fix) == ("refuses the look" in found)


def test_an_error_that_nobody_expected_fails_its_check_alone_and_is_not_repeated() -> None:
    found = results(check("a", KeyError("CANARY")), check("b", passed("fine")), check("c", passed("x"), "a"))
    assert [result for result, _, _ in found] == [Result.FAIL, Result.PASS, Result.NOT_MADE]
    assert found[0][1].startswith("The check could not be made: KeyError in line ")
    assert found[0][1].endswith(" of test_attempts.py.")
    assert "report this line" in found[0][2]
    assert "CANARY" not in str(found)


def test_a_check_whose_need_does_not_come_before_it_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a check that does not come before it"):
        results(check("a", passed("x"), "b"))
