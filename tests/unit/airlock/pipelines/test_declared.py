"""What follows after waiting is said, and no combination contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from airlock.pipelines import DeclaredCount


def test_by_default_a_list_holds_and_a_header_warns() -> None:
    settings = DeclaredCount()
    assert (settings.manifest, settings.header, settings.wait_hours, settings.then) == ("hold", "warn", 0, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"wait_hours": 24}, "set then to hold or release_partial"),
        ({"then": "release_partial"}, "release_partial needs wait_hours"),
        ({"wait_hours": -1}, "greater than or equal to 0"),
        ({"list_uri": "studies.csv"}, "is not an S3 address"),
        ({"list_uri": "s3://bucket/folder/"}, "is not the address of one object"),
        ({"manifest": "refuse"}, "'hold' or 'warn'"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DeclaredCount.model_validate(given)
