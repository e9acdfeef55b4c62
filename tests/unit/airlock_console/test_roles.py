"""The roles for FAB: who may see identifiers, who may start something, and who may do neither."""

from __future__ import annotations

from pathlib import Path

from airlock_console import deployment
from airlock_console.roles import IDENTIFIERS, OPERATOR, REVIEWER, ROLES, VIEWER

DOCUMENT = Path(__file__).parents[3] / "docs/identity.md"


def may(role: str, action: str, resource: str) -> bool:
    return (action, resource) in ROLES[role]


def test_a_viewer_changes_nothing_and_sees_no_identifiers() -> None:
    assert ROLES[VIEWER] == frozenset()


def test_only_a_reviewer_sees_identifiers_and_answers_questions() -> None:
    assert [role for role in ROLES if may(role, "can_read", IDENTIFIERS)] == [REVIEWER]
    assert [role for role in ROLES if may(role, "can_edit", "HITL Detail")] == [REVIEWER]


def test_only_an_operator_starts_runs_and_backfills() -> None:
    for resource in ("DAG Runs", "Task Instances", "Backfills"):
        assert [role for role in ROLES if may(role, "can_create", resource)] == [OPERATOR]


def test_no_role_deletes_and_none_reads_secrets() -> None:
    rights = {right for role in ROLES.values() for right in role}
    assert not [one for one in rights if one[0] == "can_delete"]
    assert not [one for one in rights if one[1] in {"Connections", "Variables", "Configurations"}]


def test_the_console_asks_for_the_right_that_the_roles_have() -> None:
    assert deployment.IDENTIFIERS is IDENTIFIERS


def test_the_page_about_identity_names_every_role_and_right() -> None:
    page = DOCUMENT.read_text()
    for role, rights in ROLES.items():
        assert f"`{role}`" in page
        assert not [resource for _, resource in rights if resource not in page]
