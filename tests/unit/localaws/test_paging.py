"""Pages and tokens."""

from __future__ import annotations

from typing import Any

import pytest

from localaws.errors import AwsError
from localaws.paging import cut_page


@pytest.mark.parametrize("size", [1, 3, 10, 50])
def test_pages_put_together_are_the_listing(size: int) -> None:
    items, collected = list(range(10)), list[int]()
    params: dict[str, Any] = {"maxResults": size}
    while True:
        part, token = cut_page(items, params)
        assert len(part) <= size
        collected += part
        if not token:
            break
        params = {"maxResults": size, **token}
    assert collected == items


def test_the_largest_page_is_the_default() -> None:
    part, token = cut_page(range(51), {})
    assert len(part) == 50
    assert token


@pytest.mark.parametrize("token", ["x", "b2Zmc2V0PS0x", "bGltaXQ9MQ==", "é"])
def test_a_foreign_token_is_refused(token: str) -> None:
    with pytest.raises(AwsError, match="nextToken"):
        cut_page(range(3), {"nextToken": token})


def test_a_service_may_name_size_and_token_otherwise() -> None:
    part, token = cut_page(range(5), {"MaxResults": 3, "maxResults": 1}, "MaxResults", "NextToken")
    assert (list(part), list(token)) == ([0, 1, 2], ["NextToken"])
    assert cut_page(range(5), token, "MaxResults", "NextToken") == (range(3, 5), {})
    with pytest.raises(AwsError, match="NextToken"):
        cut_page(range(5), {"NextToken": "x"}, "MaxResults", "NextToken")
