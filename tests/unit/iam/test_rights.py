"""The policies of iam/ allow what the code calls, and no more: the rights of each call are those of one table."""

from __future__ import annotations

import ast
import re

import pytest

from tests.iam_calls import SIGNED, calls_in, calls_of, modules, signs
from tests.iam_policies import IAM, Policy, listed, shipped
from tests.iam_table import CALLERS, NOT_TAKEN, OPERATIONS, RESOURCES, UNUSED, WITHOUT_POLICY

KINDS = {
    action: {right.on for rights in OPERATIONS.values() for right in rights if right.action == action}
    for action in {right.action for rights in OPERATIONS.values() for right in rights}
}


def operations_of(name: str) -> set[str]:
    """Return the operations of a policy's holder."""
    caller = CALLERS[name]
    left_out = caller.but.keys() | UNUSED.keys() | WITHOUT_POLICY.keys()
    return set().union(*map(calls_of, caller.runs)) - left_out | caller.also.keys()


def actions_of(operations: set[str]) -> set[str]:
    return {right.action for operation in operations for right in OPERATIONS[operation]}


def compare(name: str, policy: Policy) -> tuple[set[str], set[str]]:
    """Return the actions that a policy lacks, and those that it has beyond what is called."""
    taken = {action for action in actions_of(operations_of(name)) if (name, action) not in NOT_TAKEN}
    return taken - policy.actions, policy.actions - taken


def test_every_operation_that_the_code_calls_is_in_the_table() -> None:
    called = {operation: module for module in modules() for operation in calls_of(module)}
    assert {operation: module for operation, module in called.items() if operation not in OPERATIONS} == {}


def test_every_operation_of_the_table_is_called() -> None:
    assert OPERATIONS.keys() - set().union(*map(calls_of, modules())) == set()


def test_every_module_that_calls_aws_acts_for_the_holder_of_a_policy() -> None:
    known = {module for caller in CALLERS.values() for module in caller.runs}
    others = {module: calls_of(module) for module in modules() if module not in known}
    allowed = UNUSED.keys() | WITHOUT_POLICY.keys() | set().union(*(operations_of(name) for name in CALLERS))
    assert {module: calls for module, calls in others.items() if calls - allowed} == {}


def test_the_modules_that_sign_requests_themselves_are_known() -> None:
    assert {module for module in modules() if module.endswith(".py") and signs(module)} == SIGNED.keys()


@pytest.mark.parametrize("name", CALLERS)
def test_a_policy_allows_what_its_holder_calls_and_no_more(name: str) -> None:
    lacking, beyond = compare(name, shipped(name))
    assert lacking == set(), "the code calls it, and the policy does not allow it"
    assert beyond == CALLERS[name].unused.keys(), "the policy allows it, and the code does not call it"


@pytest.mark.parametrize("name", CALLERS)
def test_each_exception_is_still_one(name: str) -> None:
    caller = CALLERS[name]
    called = set().union(*map(calls_of, caller.runs))
    assert caller.but.keys() <= called
    assert not caller.also.keys() & called
    assert {action for policy, action in NOT_TAKEN if policy == name} <= actions_of(operations_of(name))
    assert all(reason for reasons in (caller.also, caller.but, caller.unused) for reason in reasons.values())


def test_what_no_policy_allows_is_in_none() -> None:
    assert actions_of(set(WITHOUT_POLICY)) & set().union(*(shipped(name).actions for name in CALLERS)) == set()


def test_what_the_provider_offers_and_airlock_does_not_use_is_called_nowhere_else() -> None:
    users = {module for module in modules() if calls_of(module) & UNUSED.keys()}
    assert {module for module in users if not module.startswith("plugins/healthaws/")} == set()


@pytest.mark.parametrize("name", CALLERS)
def test_a_statement_names_the_kinds_of_resources_that_its_actions_have(name: str) -> None:
    """IAM denies an action on a resource of another kind, and gives no reason."""
    for statement in shipped(name).statements:
        for action in listed(statement["Action"]):
            for kind in KINDS[action] - {"source"}:
                named = [arn for arn in listed(statement["Resource"]) if re.fullmatch(RESOURCES[kind], arn)]
                assert named, f"{statement['Sid']} allows {action}, which has the resource type {kind or '*'}"


@pytest.mark.parametrize("name", CALLERS)
def test_rights_on_keys_and_roles_are_bound_to_the_service_that_uses_them(name: str) -> None:
    asks_kms_itself = actions_of({one for one in operations_of(name) if one.startswith("kms:")})
    for statement in shipped(name).statements:
        condition = statement.get("Condition", {}).get("StringEquals", {})
        for action in set(listed(statement["Action"])) - asks_kms_itself:
            assert not action.startswith("kms:") or "kms:ViaService" in condition, statement["Sid"]
            assert action != "iam:PassRole" or "iam:PassedToService" in condition, statement["Sid"]


class TestTheComparisonFails:
    """Each direction, on code and policies that are wrong on purpose."""

    def test_for_a_call_that_the_table_does_not_have(self) -> None:
        calls = calls_in("new.py", ast.parse("def look(s3): return s3.client.get_object_tagging(Bucket='b', Key='k')"))
        assert calls - OPERATIONS.keys() == {"s3:GetObjectTagging"}

    @pytest.mark.parametrize(
        "code",
        [
            "getattr(client, 'delete_bucket')()",
            "client.get_paginator('list_object_versions')",
            "hook.conn.untag_resource()",
            "self._reply('DeleteFHIRDatastore', {})",
            "obstore.delete_async(store, 'k')",
        ],
    )
    def test_for_a_call_by_whatever_name(self, code: str) -> None:
        assert calls_in("new.py", ast.parse(code)) - OPERATIONS.keys()

    def test_for_a_word_of_ours_only_if_a_client_is_asked(self) -> None:
        assert calls_in("new.py", ast.parse("run.s3.list_objects(uri)")) == set()
        assert calls_in("new.py", ast.parse("run.s3.client.list_objects()")) == {"s3:ListObjects"}
        assert calls_in("new.py", ast.parse("Session(verify='ca.pem').client('kms').verify()")) == {"kms:Verify"}
        assert calls_in("new.py", ast.parse("verify = extra['verify']")) == set()

    def test_for_a_call_of_the_service_whose_client_is_made(self) -> None:
        code = "session.client('s3control').get_public_access_block()"
        assert calls_in("new.py", ast.parse(code)) == {"s3control:GetPublicAccessBlock"}
        assert calls_in("new.py", ast.parse("s3.get_public_access_block()")) == {"s3:GetPublicAccessBlock"}

    def test_for_an_action_that_the_policy_lacks(self) -> None:
        text = (IAM / "worker-policy.json").read_text(encoding="utf-8")
        poorer = Policy.parse("poorer", text.replace('"s3:AbortMultipartUpload"', '"s3:GetObject"'))
        assert compare("worker-policy.json", poorer) == ({"s3:AbortMultipartUpload"}, set())

    def test_for_an_action_that_nobody_calls(self) -> None:
        text = (IAM / "routes-policy.json").read_text(encoding="utf-8")
        richer = Policy.parse("richer", text.replace('"sns:Publish"', '["sns:Publish", "sns:DeleteTopic"]'))
        assert compare("routes-policy.json", richer) == (set(), {"sns:DeleteTopic"})
