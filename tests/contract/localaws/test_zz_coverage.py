"""Runs last in this folder: no operation was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.localaws.endpoint import Endpoint


def test_every_operation_of_the_model_was_answered(request: pytest.FixtureRequest, endpoint: Endpoint) -> None:
    if len({item.path for item in request.session.items if item.path.parent == request.path.parent}) < 5:
        pytest.skip("only meaningful together with the rest of the folder")
    assert endpoint.answered == set(endpoint.imaging.meta.service_model.operation_names)
