"""The roles of people who work with Airlock, for an auth manager that has roles; pairs of an action and a resource.

Each role has the rights of a viewer in Airflow's FAB auth manager besides these. Whoever administers Airlock has
FAB's own role ``Admin``, which has every right that any role has.
"""

from __future__ import annotations

IDENTIFIERS = "Airlock identifiers"  # the resource whose reading shows keys, UIDs and texts from files
VIEWER, OPERATOR, REVIEWER = "Airlock viewer", "Airlock operator", "Airlock reviewer"

_READ, _CREATE, _EDIT, _MENU = "can_read", "can_create", "can_edit", "menu_access"
_STARTED = ("DAG Runs", "Task Instances", "Backfills")
# FAB lets nobody change a part of a DAG who may not change the DAG: an answer to its question as well.
_CHANGE_DAGS = (_EDIT, "DAGs")

ROLES: dict[str, frozenset[tuple[str, str]]] = {
    VIEWER: frozenset(),
    OPERATOR: frozenset({_CHANGE_DAGS, *((action, what) for what in _STARTED for action in (_CREATE, _EDIT))}),
    REVIEWER: frozenset({_CHANGE_DAGS, (_EDIT, "HITL Detail"), (_MENU, "HITL Detail"), (_READ, IDENTIFIERS)}),
}
