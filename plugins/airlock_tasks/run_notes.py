"""The note of a DAG run: what its audit has found, beside the run in Airflow's lists.

Airflow lets no task write a note, so the audit leaves its words as an XCom, and the scheduler writes the note when the
run ends (`plugins/airlock_run_notes.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

KEY = "airlock_note"  # of the XCom; other DAGs of the deployment do not use it
OURS = "Airlock: "  # how a note of ours begins; people's notes are left alone
_LONGEST = 1_000  # characters, in Airflow's table


def write_note(dag_run: DagRun) -> None:
    """Give an ended run the words of its last audit as its note, in the transaction that ends it."""
    from airflow.models.xcom import XComModel  # tasks need the name of the XCom only
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    of_run = XComModel.dag_run_id == dag_run.id, XComModel.key == KEY
    newest = select(XComModel.value).where(*of_run).order_by(XComModel.timestamp.desc()).limit(1)
    with session.no_autoflush:
        text = session.scalar(newest)
        known = dag_run.note
    if isinstance(text, str) and (known is None or known.startswith(OURS)):
        dag_run.note = f"{OURS}{text}"[:_LONGEST]
