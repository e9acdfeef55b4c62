"""The CloudFormation templates: their policies are those of iam/, cfn-lint finds nothing, the page explains them."""

from __future__ import annotations

import json
import re

import pytest
from cfnlint.api import lint_file
from cfnlint.config import ManualArgs
from cfnlint.decode.cfn_yaml import load
from deploy.cloudformation.write_policies import TEMPLATES, Source, fill

from airlock_local.settings import ROOT

FOLDER = ROOT / "deploy/cloudformation"
REGIONS = ["us-east-1", "us-west-2", "eu-west-1", "eu-west-2", "ap-southeast-2"]  # where both services are
OUTLIVES = {  # what happens to a resource when its stack is deleted, or an update would replace it
    "AWS::HealthImaging::Datastore": "Retain",
    "AWS::HealthLake::FHIRDatastore": "Retain",
    "AWS::KMS::Key": "Retain",
    "AWS::RDS::DBInstance": "Snapshot",
    "AWS::S3::Bucket": "Retain",
}
LARGEST = 51_200  # bytes; CloudFormation takes a larger template from S3 only


def template(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_policies_are_as_make_cloudformation_writes_them(name: str) -> None:
    assert fill(template(name)) == template(name)


def test_every_policy_is_written_from_iam() -> None:
    """The trusts in the workers' principal and in Lambda are the templates' own."""
    for name in TEMPLATES:
        own = re.findall(r"^ *(?:\w*PolicyDocument|KeyPolicy):(?! # iam/).*$", template(name), re.MULTILINE)
        assert len(own) == {"airlock.yaml": 1, "arrivals.yaml": 1}.get(name, 0), own


def test_every_policy_of_iam_is_in_a_template() -> None:
    written = {path for name in TEMPLATES for path in re.findall(r" (iam/\S+\.json)", template(name))}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "iam").rglob("*.json")}
    assert there - written == {
        "iam/doctor-policy.json",  # it is about two stacks, airlock.yaml and arrivals.yaml; a person holds it
        "iam/edge-policy.json",  # whoever runs the edge outside of AWS has a user or role of their own
        "iam/routes-policy.json",  # it is about other teams' queues, topics and buses
    }


def test_a_word_that_nothing_is_known_for_is_refused(tmp_path) -> None:
    (tmp_path / "policy.json").write_text(
        json.dumps({"Version": "2012-10-17", "Statement": [{"Sid": "A", "Resource": "arn:aws:s3:::NEW_BUCKET"}]})
    )
    with pytest.raises(ValueError, match=r"nothing is known for \['NEW_BUCKET'\]"):
        Source.read("policy.json", "").document(tmp_path)


def test_a_statement_that_is_not_there_cannot_be_left_out(tmp_path) -> None:
    (tmp_path / "policy.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": [{"Sid": "A"}]}))
    with pytest.raises(ValueError, match=r"has no statement \['B'\]"):
        Source.read("policy.json", "-B").document(tmp_path)


@pytest.mark.parametrize("name", TEMPLATES)
def test_cfn_lint_finds_nothing(name: str) -> None:
    assert lint_file(FOLDER / name, config=ManualArgs(regions=REGIONS)) == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_can_be_given_to_cloudformation_without_s3(name: str) -> None:
    assert len(template(name).encode()) <= LARGEST


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_page_explains_every_parameter(name: str) -> None:
    page = (ROOT / "docs/cloudformation.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^Parameters:\n((?:  .*\n|\n)+)", template(name), re.MULTILINE)
    missing = [
        parameter for parameter in re.findall(r"^  (\w+):$", block, re.MULTILINE) if f"`{parameter}`" not in page
    ]
    assert missing == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_has_data_outlives_its_stack(name: str) -> None:
    for logical_id, resource in load(str(FOLDER / name))["Resources"].items():
        kept = OUTLIVES.get(resource["Type"])
        if kept is not None:
            assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == (kept, kept), logical_id
