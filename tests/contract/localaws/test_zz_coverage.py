"""Runs last in this folder: no operation was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.localaws.endpoint import Endpoint
    from tests.contract.localaws.healthlake import HealthLakeEndpoint


NOT_EMULATED = {"RestoreFHIRDatastore", "UpdateProfileWithAgent"}
"""HealthLake's operations that answer 501."""


@pytest.fixture(autouse=True)
def whole_folder(request: pytest.FixtureRequest) -> None:
    there = {item.path for item in request.session.items if item.path.parent == request.path.parent}
    if there < set(request.path.parent.glob("test_*.py")):
        pytest.skip("only meaningful together with the rest of the folder")


def test_every_operation_of_the_model_was_answered(endpoint: Endpoint) -> None:
    assert endpoint.answered == set(endpoint.imaging.meta.service_model.operation_names)


def test_every_operation_of_healthlake_was_answered(healthlake: HealthLakeEndpoint) -> None:
    operations = set(healthlake.client.meta.service_model.operation_names)
    assert healthlake.answered == operations - NOT_EMULATED
