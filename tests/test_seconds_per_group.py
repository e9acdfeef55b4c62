"""The seconds per group that every run of the tests prints."""

from __future__ import annotations

import pytest

from tests.conftest import group_of, seconds_by_group


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/unit/airlock/ledger/test_runs.py::test_a", "unit/airlock"),
        ("tests/unit/test_deployment_files.py::test_a", "unit"),
        ("tests/integration/golden/test_dispositions.py::TestA::test_b[x/y]", "integration"),
        ("tests/test_architecture.py::test_a", "tests"),
    ],
)
def test_a_test_belongs_to_its_folder(nodeid: str, group: str) -> None:
    assert group_of(nodeid) == group


def test_set_up_and_tear_down_are_counted_as_time_and_not_as_tests() -> None:
    parts = [("setup", 2.0), ("call", 1.0), ("teardown", 0.5)]
    slow = [_report("tests/e2e/test_a.py::test_a", when, seconds) for when, seconds in parts]
    quick = _report("tests/unit/airlock/test_b.py::test_b", "call", 0.25)
    assert list(seconds_by_group([quick, *slow]).items()) == [("e2e", (1, 3.5)), ("unit/airlock", (1, 0.25))]


def _report(nodeid: str, when: str, seconds: float) -> pytest.TestReport:
    return pytest.TestReport(nodeid, ("", None, ""), {}, "passed", None, when, duration=seconds)  # type: ignore[arg-type]
