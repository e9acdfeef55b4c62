"""The section ``buckets``: which settings a bucket has, and which keys and roles the jobs of HealthLake get."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from airlock.pipelines import BucketSettings
from airlock.pipelines.buckets import find_entry, select_settings
from airlock_tasks.import_ import CcdaImportOperator, FhirImportOperator
from tests.chain import HEALTHLAKE, ROLE, ccda_pipeline, clinical_pipeline, pipeline

KEY = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
OTHER = KEY.replace("1111-", "9999-")
OWNER = "123456789012"
LAKE = {name: value for name, value in HEALTHLAKE.items() if name != "kms_key_id"}


class TestSettings:
    OTHERS = BucketSettings(kms_key_id=KEY, expected_bucket_owner=OWNER)

    def test_a_bucket_that_is_not_named_has_those_of_the_others(self) -> None:
        assert select_settings({"others": self.OTHERS}, "staging") == self.OTHERS
        assert select_settings({}, "staging") == BucketSettings()

    def test_a_field_that_is_not_written_is_that_of_the_others(self) -> None:
        buckets = {"others": self.OTHERS, "staging": BucketSettings(kms_key_id=OTHER)}
        found = select_settings(buckets, "staging")
        assert (found.kms_key_id, found.expected_bucket_owner) == (OTHER, OWNER)
        assert find_entry(buckets, "staging", "kms_key_id") == "staging"
        assert find_entry(buckets, "staging", "expected_bucket_owner") == "others"

    def test_null_takes_a_setting_of_the_others_away(self) -> None:
        found = select_settings({"others": self.OTHERS, "staging": BucketSettings(kms_key_id=None)}, "staging")
        assert (found.kms_key_id, found.expected_bucket_owner) == (None, OWNER)


def test_every_bucket_of_every_kind_has_settings() -> None:
    read = {"archive", "inventory", "lists", "crosswalks"}
    made = pipeline(
        source={
            "uri": "s3://archive/in/",
            "listing": "inventory",
            "inventory_uri": "s3://inventory/archive/daily/",
            "lookback_hours": 72,
        },
        audit={"declared_count": {"list_uri": "s3://lists/studies.csv"}},
        healthlake=HEALTHLAKE,
        publish={
            "issuer_systems": {"ISSUER": "urn:a"},
            "patient_match": {
                "rules": [
                    {"type": "identifier", "system": "urn:a"},
                    {"type": "crosswalk", "uri": "s3://crosswalks/persons.csv"},
                ]
            },
        },
    )
    assert made.bucket_settings().keys() == read | {"workspace", "staging", "output", "contracts"}
    converted = ccda_pipeline(transformation=_transformation(output_uri="s3://converted/out/"))
    assert converted.bucket_settings().keys() == {"archive", "workspace", "staging", "output", "contracts", "converted"}


def _transformation(**changes: Any) -> dict[str, Any]:
    return ccda_pipeline().transformation.model_dump() | changes


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        "11111111-2222-3333-4444-555555555555",
        "mrk-" + "0a" * 16,
        "alias/airlock",
        "arn:aws-us-gov:kms:us-gov-west-1:123456789012:alias/hospital/airlock",
    ],
)
def test_a_key_is_an_arn_an_id_or_an_alias(key: str) -> None:
    assert BucketSettings(kms_key_id=key).kms_key_id == key


@pytest.mark.parametrize("key", ["", "airlock", "alias/", "arn:aws:kms:us-east-1:12:key/x", KEY + " "])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ValidationError):
        BucketSettings(kms_key_id=key)


def _job(made: Any) -> FhirImportOperator:
    return FhirImportOperator(
        task_id="import", pipeline=made, healthlake=made.healthlake, validation_level="strict", batch_id="b"
    )


class TestJobs:
    def test_an_import_names_the_key_of_its_output_bucket(self) -> None:
        made = clinical_pipeline(healthlake=LAKE, buckets={"output": {"kms_key_id": KEY}})
        assert _job(made).kms_key_id == KEY

    def test_without_one_it_names_that_of_healthlake(self) -> None:
        assert _job(clinical_pipeline()).kms_key_id == "alias/airlock"

    @pytest.mark.parametrize("make", [clinical_pipeline, pipeline])
    def test_one_of_the_two_is_required(self, make: Any) -> None:
        with pytest.raises(ValidationError, match="HealthLake writes no output without a key"):
            make(healthlake=LAKE)

    @pytest.mark.parametrize("make", [clinical_pipeline, pipeline])
    def test_two_different_keys_are_refused(self, make: Any) -> None:
        with pytest.raises(ValidationError, match=r"remove\s+healthlake.kms_key_id"):
            make(healthlake=HEALTHLAKE, buckets={"others": {"kms_key_id": KEY}})

    def test_a_conversion_has_a_role_and_a_key_of_its_own(self) -> None:
        role = "arn:aws:iam::123456789012:role/airlock-transformation"
        given = _transformation(output_uri="s3://converted/out/", data_access_role_arn=role)
        buckets = {"output": {"kms_key_id": OTHER}, "converted": {"kms_key_id": KEY}}
        made = ccda_pipeline(healthlake=LAKE, transformation=given, buckets=buckets)
        job = CcdaImportOperator(task_id="import", pipeline=made, batch_id="b")
        assert (job.data_access_role_arn, job.kms_key_id) == (role, KEY)
        assert (_job(made).data_access_role_arn, _job(made).kms_key_id) == (ROLE, OTHER)

    def test_without_them_it_has_those_of_the_imports(self) -> None:
        job = CcdaImportOperator(task_id="import", pipeline=ccda_pipeline(), batch_id="b")
        assert (job.data_access_role_arn, job.kms_key_id) == (ROLE, "alias/airlock")
