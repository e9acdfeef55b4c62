"""``airlock plan --impact`` as a person calls it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result


@pytest.mark.usefixtures("told", "s3", "pipelines")
def test_it_shows_each_rule_with_its_setting_and_starts_no_run(airlock: Callable[..., Result]) -> None:
    shown = airlock("plan", "nightly", "--impact")
    assert shown.exit_code == 0
    assert "sibling_unread" in shown.stdout
    assert "audit.unread_siblings_studies: 1" in shown.stdout


@pytest.mark.usefixtures("told", "s3", "pipelines")
def test_as_json_it_has_a_schema(airlock: Callable[..., Result]) -> None:
    found: dict[str, Any] = json.loads(airlock("plan", "nightly", "--impact", "--json").stdout)
    assert (found["schema"], found["pipeline"], found["kind"]) == ("airlock.impact/1", "nightly", "imaging")
    assert {"rule", "setting", "counted", "would_hold", "of", "note"} == found["rules"][0].keys()


@pytest.mark.usefixtures("told", "s3", "pipelines")
def test_a_window_does_not_go_with_it(airlock: Callable[..., Result]) -> None:
    refused = airlock("plan", "nightly", "--impact", "--prefix", "deliveries/a/")
    assert refused.exit_code == 2
    assert "Leave out the prefix and the window." in refused.stderr


@pytest.mark.usefixtures("told", "s3", "pipelines")
def test_an_unknown_pipeline_is_refused(airlock: Callable[..., Result]) -> None:
    assert airlock("plan", "nightyl", "--impact").exit_code == 2
