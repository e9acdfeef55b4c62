"""The policies of iam/ as a person would sign them: nothing open, each trust bound, keys for who uses them."""

from __future__ import annotations

import json
import re

import pytest

from tests.iam_policies import IAM, Policy, Request, allow, fill, listed, shipped
from tests.iam_table import CALLERS, OPERATIONS, SERVICE_ROLES

ALL = sorted(path.name for path in IAM.glob("*.json"))
TRUSTS = {
    "import-role-trust.json": "medical-imaging.amazonaws.com",
    "fhir-import-role-trust.json": "healthlake.amazonaws.com",
    "ccda-transformation-role-trust.json": "healthlake.amazonaws.com",
}
OF_RESOURCES = ("bucket-policy.json", "kms-key-policy.json")
UNTYPED = {right.action for rights in OPERATIONS.values() for right in rights if not right.on}
KEY = "arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID"
ENCRYPTION, KEY_HEADER = "s3:x-amz-server-side-encryption", "s3:x-amz-server-side-encryption-aws-kms-key-id"


def statements(name: str) -> list[dict]:
    return json.loads((IAM / name).read_text(encoding="utf-8"))["Statement"]


def test_every_policy_is_of_a_known_kind() -> None:
    assert set(ALL) == {*CALLERS, *SERVICE_ROLES, *TRUSTS, *OF_RESOURCES}


def test_the_readme_names_every_policy() -> None:
    text = (IAM / "README.md").read_text(encoding="utf-8")
    assert [name for name in ALL if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", ALL)
def test_statements_have_names_that_differ(name: str) -> None:
    names = [statement["Sid"] for statement in statements(name)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9]+", sid) for sid in names)  # IAM takes no other characters


@pytest.mark.parametrize("name", [*CALLERS, *SERVICE_ROLES])
def test_no_role_may_do_everything(name: str) -> None:
    for statement in statements(name):
        actions = set(listed(statement["Action"]))
        assert statement["Effect"] == "Allow"
        assert not [action for action in actions if "*" in action]
        assert "*" not in listed(statement["Resource"]) or actions <= UNTYPED, statement["Sid"]


@pytest.mark.parametrize("name", SERVICE_ROLES)
def test_a_role_of_a_service_has_the_rights_that_aws_asks_for_and_no_more(name: str) -> None:
    assert shipped(name).actions == SERVICE_ROLES[name].keys()


@pytest.mark.parametrize("name", TRUSTS)
def test_a_service_assumes_its_role_for_this_account_only(name: str) -> None:
    (statement,) = statements(name)
    assert statement["Principal"] == {"Service": TRUSTS[name]}
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": "ACCOUNT_ID"}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("import-role-trust.json", "arn:aws:medical-imaging:REGION:ACCOUNT_ID:datastore/DATASTORE_ID"),
        ("fhir-import-role-trust.json", "arn:aws:healthlake:REGION:ACCOUNT_ID:datastore/fhir/DATASTORE_ID"),
    ],
)
def test_a_role_for_imports_is_assumed_for_one_data_store_only(name: str, source: str) -> None:
    (statement,) = statements(name)
    assert statement["Condition"]["ArnEquals"] == {"aws:SourceArn": source}


def test_a_role_for_conversions_is_bound_to_no_data_store() -> None:
    """A transformation job has none: under the trust of the import role, HealthLake could not assume it."""
    (statement,) = statements("ccda-transformation-role-trust.json")
    assert statement["Condition"].keys() == {"StringEquals"}


def test_the_key_is_used_by_the_roles_of_iam_and_administered_without_being_used() -> None:
    named = {role for one in statements("kms-key-policy.json") for role in _roles(one)}
    passed = {statement["Resource"] for name in CALLERS for statement in statements(name) if _passes(statement)}
    assert {arn.rpartition("/")[2] for arn in passed} < named
    for statement in statements("kms-key-policy.json"):
        uses = {"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"} & set(listed(statement["Action"]))
        assert not (uses and "root" in str(statement["Principal"])), statement["Sid"]
        assert not [action for action in listed(statement["Action"]) if "*" in action]


def test_every_use_of_a_key_by_a_role_is_allowed_by_the_sample_of_its_key_policy() -> None:
    offered = {action for one in statements("kms-key-policy.json") for action in listed(one["Action"])}
    used = {action for name in (*CALLERS, *SERVICE_ROLES) for action in shipped(name).actions if action[:4] == "kms:"}
    assert used - offered == set()


def _roles(statement: dict) -> set[str]:
    arns = listed(statement["Principal"].get("AWS", []))
    return {arn.rpartition("/")[2] for arn in arns if ":role/" in arn}


def _passes(statement: dict) -> bool:
    return statement["Action"] == "iam:PassRole"


class TestTheBucketPolicy:
    """What iam/bucket-policy.json refuses, and what it lets through."""

    def refused(self, action: str = "s3:PutObject", **context: str) -> str | None:
        names = {"encryption": ENCRYPTION, "key": KEY_HEADER, "tls": "aws:SecureTransport", "org": "aws:PrincipalOrgID"}
        ours = {"aws:SecureTransport": "true", "aws:PrincipalOrgID": "ORGANIZATION_ID"}
        given = ours | {names[name]: value for name, value in context.items()}
        request = Request(action, "arn:aws:s3:::BUCKET/a", {key: value for key, value in given.items() if value})
        return shipped("bucket-policy.json").find("Deny", request)

    def test_a_write_under_the_key_is_let_through(self) -> None:
        assert self.refused(encryption="aws:kms", key=KEY) is None

    def test_a_read_needs_no_header(self) -> None:
        assert self.refused("s3:GetObject") is None

    def test_a_write_without_a_header_is_refused(self) -> None:
        assert self.refused() == "RefuseWritesThatNameNoKey"

    def test_a_write_under_the_key_of_s3_is_refused(self) -> None:
        assert self.refused(encryption="AES256") == "RefuseOtherEncryption"
        assert self.refused(encryption="aws:kms") == "RefuseWritesThatNameNoKey"

    def test_a_write_under_another_key_is_refused(self) -> None:
        other = KEY.replace("KEY_ID", "OTHER")
        assert self.refused(encryption="aws:kms", key=other) == "RefuseOtherKeys"

    @pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "s3:ListBucket"])
    def test_nothing_goes_without_tls(self, action: str) -> None:
        assert self.refused(action, tls="false", encryption="aws:kms", key=KEY) == "RefuseRequestsWithoutTls"

    @pytest.mark.parametrize("org", ["o-other", ""])
    def test_nobody_of_another_organization_reads(self, org: str) -> None:
        assert self.refused("s3:GetObject", org=org) == "RefuseOtherOrganizations"

    def test_a_service_of_aws_is_of_no_organization_and_reads(self) -> None:
        context = {"aws:SecureTransport": "true", "aws:PrincipalIsAWSService": "true"}
        request = Request("s3:GetObject", "arn:aws:s3:::BUCKET/a", context)
        assert shipped("bucket-policy.json").find("Deny", request) is None


class TestTheJudge:
    """`tests.iam_policies` judges as IAM does, and refuses what it does not know."""

    def policy(self, **statement: object) -> Policy:
        return Policy.parse("p", json.dumps({"Statement": [{"Sid": "S", "Effect": "Allow", **statement}]}))

    def test_a_wildcard_crosses_slashes_and_a_bracket_is_a_letter(self) -> None:
        policy = self.policy(Action="s3:Get*", Resource="arn:aws:s3:::b/runs/*/x[1]/*")
        assert allow([policy], Request("s3:GetObject", "arn:aws:s3:::b/runs/p/r/x[1]/y"))
        assert not allow([policy], Request("s3:GetObject", "arn:aws:s3:::b/runs/p/x1/y"))
        assert not allow([policy], Request("s3:PutObject", "arn:aws:s3:::b/runs/p/r/x[1]/y"))

    @pytest.mark.parametrize("operator", ["StringNotEquals", "StringNotEqualsIfExists", "StringEqualsIfExists"])
    def test_a_condition_that_negates_or_says_if_exists_is_met_without_the_key(self, operator: str) -> None:
        policy = self.policy(Effect="Deny", Action="*", Resource="*", Condition={operator: {"aws:PrincipalOrgID": "o"}})
        assert policy.find("Deny", Request("s3:GetObject", "arn:aws:s3:::b/k")) == "S"

    def test_a_condition_on_a_key_that_is_not_there_is_not_met(self) -> None:
        policy = self.policy(Action="s3:ListBucket", Resource="*", Condition={"StringLike": {"s3:prefix": "runs/*"}})
        assert allow([policy], Request("s3:ListBucket", "arn:aws:s3:::b", {"s3:prefix": "runs/p/"}))
        assert not allow([policy], Request("s3:ListBucket", "arn:aws:s3:::b", {"s3:prefix": "other/"}))
        assert not allow([policy], Request("s3:ListBucket", "arn:aws:s3:::b"))

    @pytest.mark.parametrize("condition", [{"NumericLessThan": {"s3:max-keys": "10"}}, {"ForAnyValue:StringLike": {}}])
    def test_an_operator_that_it_does_not_know_is_an_error(self, condition: dict) -> None:
        policy = self.policy(Action="*", Resource="*", Condition={k: v or {"a": "b"} for k, v in condition.items()})
        with pytest.raises(KeyError):
            allow([policy], Request("s3:ListBucket", "arn:aws:s3:::b", {"s3:max-keys": "1", "a": "b"}))

    def test_an_element_that_it_does_not_know_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="NotAction"):
            self.policy(NotAction="s3:*", Resource="*")

    def test_words_in_capitals_are_replaced_whole(self) -> None:
        assert fill("key/DATASTORE_KEY_ID KEY_ID", {"KEY_ID": "k"}) == "key/DATASTORE_KEY_ID k"
