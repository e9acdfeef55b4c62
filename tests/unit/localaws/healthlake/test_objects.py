"""The buckets of a job, before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from botocore.stub import Stubber

from localaws.errors import AwsError
from localaws.healthlake.objects import Objects
from localaws.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

INPUT, OUTPUT = "s3://records/in/", "s3://results/out/"


@pytest.fixture
def objects() -> Objects:
    return Objects(Settings(s3_endpoint="http://127.0.0.1:9"))


@pytest.fixture
def s3(objects: Objects) -> Iterator[Stubber]:
    with Stubber(objects._client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("output", "key"),
    [
        (OUTPUT, "out/.healthlake_write_access_check_file.temp"),
        ("s3://results/out", "out/.healthlake_write_access_check_file.temp"),
        ("s3://results", ".healthlake_write_access_check_file.temp"),
    ],
)
def test_an_empty_object_proves_that_the_output_can_be_written(
    objects: Objects, s3: Stubber, output: str, key: str
) -> None:
    s3.add_response("head_bucket", {}, {"Bucket": "records"})
    s3.add_response("head_bucket", {}, {"Bucket": "results"})
    s3.add_response("put_object", {}, {"Bucket": "results", "Key": key, "Body": b""})
    objects.check([INPUT], output)


@pytest.mark.parametrize(
    ("s3_code", "code", "named"),
    [
        ("404", "ValidationException", "bucket records does not exist"),
        ("403", "AccessDeniedException", "may not use the bucket records"),
        ("503", "FailedDependencyException", "refused the bucket records: 503"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_named(
    objects: Objects, s3: Stubber, s3_code: str, code: str, named: str
) -> None:
    s3.add_client_error("head_bucket", s3_code)
    with pytest.raises(AwsError, match=named) as caught:
        objects.check([INPUT], OUTPUT)
    assert caught.value.code == code


def test_an_output_that_may_not_be_written_is_refused(objects: Objects, s3: Stubber) -> None:
    s3.add_response("head_bucket", {})
    s3.add_client_error("put_object", "AccessDenied")
    with pytest.raises(AwsError, match="bucket results") as caught:
        objects.check([], OUTPUT)
    assert caught.value.code == "AccessDeniedException"


def test_an_s3_that_does_not_answer_is_a_failed_dependency(objects: Objects) -> None:
    with pytest.raises(AwsError, match="EndpointConnectionError") as caught:
        objects.check([INPUT], OUTPUT)
    assert caught.value.code == "FailedDependencyException"
