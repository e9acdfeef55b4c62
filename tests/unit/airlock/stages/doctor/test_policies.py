"""Policies are read as IAM reads them; what the doctor cannot know leaves the answer open."""

from __future__ import annotations

from typing import Any

import pytest

from airlock.stages.doctor.policies import Answer, Request, ask, has_condition, matches, names_anybody

ARN = "arn:aws:sqs:us-east-1:123456789012:q"
REQUEST = Request(
    frozenset({"Service:s3.amazonaws.com"}), "sqs:SendMessage", ARN, {"aws:SourceAccount": "1", "aws:SourceArn": None}
)


def statement(effect: str = "Allow", condition: Any = None, **changes: Any) -> dict[str, Any]:
    whole = {"Effect": effect, "Principal": {"Service": "s3.amazonaws.com"}, "Action": "sqs:*", "Resource": ARN}
    return whole | changes | ({"Condition": condition} if condition else {})


def answer(*statements: dict[str, Any]) -> Answer:
    return ask({"Statement": list(statements)}, REQUEST)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (statement(), Answer.ALLOWED),
        (statement(Action=["sqs:Receive*", "SQS:sendmessage"]), Answer.ALLOWED),
        (statement(Action="sqs:ReceiveMessage"), Answer.SILENT),
        (statement(Principal="*"), Answer.ALLOWED),
        (statement(Principal={"AWS": "*"}), Answer.ALLOWED),
        (statement(Principal={"Service": ["a", "s3.amazonaws.com"]}), Answer.ALLOWED),
        (statement(Principal={"Service": "sns.amazonaws.com"}), Answer.SILENT),
        (statement(Resource="arn:aws:sqs:*:*:other"), Answer.SILENT),
        (statement(Resource="arn:aws:sqs:*:*:?"), Answer.ALLOWED),
        (statement(condition={"StringEquals": {"AWS:sourceaccount": ["2", "1"]}}), Answer.ALLOWED),
        (statement(condition={"StringEquals": {"aws:SourceAccount": "2"}}), Answer.SILENT),
        (statement(condition={"StringNotEquals": {"aws:SourceAccount": "2"}}), Answer.ALLOWED),
        (statement(condition={"ArnLike": {"aws:SourceArn": "*"}}), Answer.SILENT),
        (statement(condition={"ArnLikeIfExists": {"aws:SourceArn": "x"}}), Answer.ALLOWED),
        (statement(condition={"Null": {"aws:SourceArn": "true"}}), Answer.ALLOWED),
        (statement(condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), Answer.OPEN),
        (statement(condition={"DateLessThan": {"aws:SourceAccount": "x"}}), Answer.OPEN),
    ],
)
def test_one_statement(given: dict[str, Any], wanted: Answer) -> None:
    assert answer(given) is wanted


def test_a_deny_wins_wherever_it_stands() -> None:
    assert answer(statement(), statement("Deny", Action="sqs:SendMessage")) is Answer.DENIED
    assert answer(statement("Deny", NotAction="sqs:SendMessage"), statement()) is Answer.ALLOWED


def test_a_deny_under_an_unknown_condition_leaves_an_allow_open() -> None:
    open_ = statement("Deny", {"StringEquals": {"aws:PrincipalTag/team": "x"}})
    assert answer(statement(), open_) is Answer.OPEN


def test_a_single_statement_needs_no_list() -> None:
    assert ask({"Statement": statement()}, REQUEST) is Answer.ALLOWED
    assert ask({}, REQUEST) is Answer.SILENT


def test_everybody_is_named_only_without_a_condition() -> None:
    assert names_anybody({"Statement": [statement(Principal="*")]})
    assert not names_anybody({"Statement": [statement(Principal="*", condition={"Bool": {"x": "true"}})]})
    assert not names_anybody({"Statement": [statement("Deny", Principal="*")]})


def test_a_condition_counts_if_each_statement_of_the_principal_has_it() -> None:
    guarded = statement(condition={"StringEquals": {"aws:SourceAccount": "1"}})
    asked = ("Service:s3.amazonaws.com", "aws:sourceAccount")
    assert has_condition({"Statement": [guarded]}, *asked)
    assert not has_condition({"Statement": [guarded, statement()]}, *asked)
    assert not has_condition({"Statement": []}, *asked)


def test_only_stars_and_question_marks_stand_for_others() -> None:
    assert matches("a*c", "abbc")
    assert not matches("a?c", "abbc")
    assert not matches("a.c", "abc")
