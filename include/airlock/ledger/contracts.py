"""The latest contract of each subject per data store, and the files that still keep a study from completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, delete, exists, func, literal_column, or_, select

from airlock.ledger.arrival_states import arrival_states as states
from airlock.ledger.arrivals import study_key_of
from airlock.ledger.columns import FindingKind, InstanceState
from airlock.ledger.comparison_tables import findings
from airlock.ledger.database import PartScope, Store
from airlock.ledger.decision_tables import reviews
from airlock.ledger.frames import (
    compress_quickly,
    count_rows,
    fetch,
    fetch_by_values,
    insert_missing,
    stage,
    stage_query,
    uid_frame,
)
from airlock.ledger.generations import STOPPED
from airlock.ledger.identities import CONTRADICTED
from airlock.ledger.journal import journaled
from airlock.ledger.owed import OUT_OF_REACH
from airlock.ledger.redrives import HELD_FOR_THE_STUDY, still_owns, superseded
from airlock.ledger.runs import need_run
from airlock.ledger.tables import contracts, gates, in_flight, instances, runs, verdicts, words
from airlock.reasons import Reason
from airlock.records import CONTRACTS, TIMESTAMP, Disposition, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import ColumnClause, ColumnElement, Connection, Select, Table

_SUBJECTS = pl.Schema({"subject": pl.String})
_FILES = schema(dict.fromkeys(("run_key", "bucket", "key"), pl.String))
_KEPT = schema(CONTRACTS, {"patient": pl.String})
_STUDY_KEYS = pl.Schema({"StudyInstanceUID": pl.String, "study_key": pl.String})
_WAITING = schema({"subject": pl.String, "subject_key": pl.String}, {"decided_at": TIMESTAMP})
# Literals, as in the condition of the index.
_WAITING_REASONS: list[ColumnClause[str]] = [
    literal_column(f"'{reason}'") for reason in (Reason.STUDY_IN_FLIGHT, Reason.AWAITING_DECLARED)
]
SCOPE = "contracts"
# A file that is held only because its study is held is released with the study; any other held file needs a person.
_HELD_FOR_THE_STUDY = tuple(reason.value for reason in HELD_FOR_THE_STUDY)
_ARRIVAL = and_(states.c.pipeline == instances.c.pipeline, states.c.arrival_id == instances.c.arrival_id)
_WAITS_FOR_A_PERSON = and_(states.c.disposition == Disposition.HELD.value, states.c.reason.not_in(_HELD_FOR_THE_STUDY))


def scope(datastore_id: str) -> PartScope:
    """Return the lock scope of writers of a data store's contracts; see `database.writing`."""
    return PartScope(SCOPE, datastore_id)


class Contracts(Store):
    """The ledger's methods about contracts."""

    def contracts(self, datastore_id: str, subjects: pl.Series) -> pl.DataFrame:
        """Return the latest contract of each subject, as `records.CONTRACTS`; no row for an unknown subject."""
        with self._reading() as connection:
            return _fetch_contracts(connection, datastore_id, subjects)

    @journaled(without="revise", result="completed")
    def revise_contracts(
        self, datastore_id: str, run_key: str, subjects: pl.Series, revise: Callable[[pl.DataFrame], pl.DataFrame]
    ) -> pl.DataFrame:
        """Replace contracts by their revisions; of two runs at the same time the later revises the earlier one's.

        Parameters
        ----------
        datastore_id, run_key
            The data store, and the run that completes the contracts.
        subjects
            The subjects of the contracts.
        revise
            Gets the current contracts, `records.CONTRACTS`, and returns the new ones, one row per subject.

        Returns
        -------
        polars.DataFrame
            The result of *revise*.
        """
        with self._writing(scope(datastore_id)) as connection:
            need_run(connection, run_key)
            completed = revise(_fetch_contracts(connection, datastore_id, subjects))
            kept = completed.with_columns(patient=_find_patients(completed["contract"]))
            compress_quickly(connection)
            rows = stage(connection, kept, _KEPT, ["subject"])
            twin = and_(contracts.c.datastore_id == datastore_id, contracts.c.subject == rows.c.subject)
            connection.execute(delete(contracts).where(exists(select(rows.c.subject).where(twin))))
            constants = {"datastore_id": datastore_id, "run_key": run_key}
            insert_missing(connection, contracts, rows, ["datastore_id", "subject"], **constants)
            return completed

    def contracts_of_patients(self, datastore_id: str, patients: pl.Series) -> pl.DataFrame:
        """Return the latest contract of every study that is published as FHIR for one of these patients.

        Parameters
        ----------
        datastore_id
            The data store of the studies.
        patients
            References as in the contracts: ``Patient/<id>``.

        Returns
        -------
        polars.DataFrame
            `records.CONTRACTS`, sorted by subject.
        """
        with self._reading() as connection:
            in_store = contracts.c.datastore_id == datastore_id
            return fetch_by_values(connection, contracts, CONTRACTS, patients, "patient", in_store).sort("subject")

    def unresolved_files(
        self, datastore_id: str, pipeline: str, uids: pl.Series, except_run: str, *, missing: bool = True
    ) -> list[tuple[str, str]]:
        """Return the files of these studies that other runs have not imported, or that wait there for a person.

        Parameters
        ----------
        datastore_id, pipeline
            The data store and the pipeline. Files that wait for a person in the data store count whichever pipeline
            imported them: the study's contract would name them.
        uids
            Study Instance UIDs.
        except_run
            The calling run; its own files do not count.
        missing
            Whether files that were not imported count; those that were imported and wait for a person always do.

        Returns
        -------
        list of (str, str)
            A Study Instance UID with the id of an arrival, or with the key of a run whose books do not balance.
        """
        with self._reading() as connection:
            rows = _stage_studies(connection, uids)
            settled = _stage_unreleased(connection, rows, except_run)
            found = _fetch_pairs(connection, *_query_waiting(rows, settled, datastore_id, pipeline, except_run))
            if missing:
                found |= _fetch_pairs(connection, _query_missing(settled, datastore_id, pipeline, except_run))
                found |= _fetch_pairs(connection, _query_lost(rows, datastore_id))
            return sorted(found)

    def studies_in_flight(self, datastore_id: str, uids: pl.Series, except_run: str) -> list[tuple[str, str]]:
        """Return which of these studies have files that other runs have a verdict on and have not settled.

        Parameters
        ----------
        datastore_id
            The data store; the runs of all its pipelines count.
        uids, except_run
            Study Instance UIDs, and the calling run.

        Returns
        -------
        list of (str, str)
            A Study Instance UID with the key of a run.
        """
        with self._reading() as connection:
            rows = _stage_studies(connection, uids)
            return sorted(_fetch_pairs(connection, _query_in_flight(rows, datastore_id, except_run)))

    def waiting_studies(self, datastore_id: str, pipeline: str, except_run: str) -> pl.DataFrame:
        """Return the studies that runs of a pipeline hold for files in flight or declared ones, and none is in flight.

        So are those that a run could not publish because their order is another patient's: a person may have decided,
        or the order was corrected. And so are those that wait for an object that S3 did not give, once nothing replaces
        it in them: it has come again, or a newer content under its key, and belongs to another study.

        Returns
        -------
        polars.DataFrame
            ``subject``, ``subject_key`` and ``decided_at`` (when it was held), sorted. Other causes may hold them:
            ask `unresolved_files`.
        """
        later = gates.alias("later")
        decided_later = exists().where(
            later.c.subject == gates.c.subject,
            later.c.datastore_id == gates.c.datastore_id,
            later.c.decided_at > gates.c.decided_at,
            later.c.run_key != except_run,
        )
        flies = exists().where(
            in_flight.c.study_key == gates.c.subject_key, in_flight.c.datastore_id == gates.c.datastore_id
        )
        decided_at = func.min(gates.c.decided_at, type_=gates.c.decided_at.type).label("decided_at")
        waits = select(gates.c.subject, gates.c.subject_key, decided_at).group_by(gates.c.subject, gates.c.subject_key)
        waits = waits.where(
            gates.c.datastore_id == datastore_id,
            gates.c.run_key.in_(select(runs.c.run_key).where(runs.c.pipeline == pipeline)),
            ~decided_later,
            ~flies,
        )
        # The index has no gates for this reason, and none is needed: they are found by the questions about them.
        asked = select(reviews.c.subject).where(reviews.c.pipeline == pipeline, reviews.c.reason == CONTRADICTED)
        contradicted = gates.c.reason == Reason.PATIENT_CONTRADICTED.value, gates.c.subject.in_(asked)
        found = [waits.where(gates.c.reason.in_(_WAITING_REASONS)), waits.where(*contradicted)]
        with self._reading() as connection:
            rows = [fetch(connection, one, _WAITING) for one in found]
            rows.append(_fetch_waiting_for_file(connection, pipeline, waits))
        return pl.concat(rows).group_by("subject", "subject_key").agg(pl.col("decided_at").min()).sort("subject_key")


def _fetch_waiting_for_file(connection: Connection, pipeline: str, waits: Select[Any]) -> pl.DataFrame:
    """Return the studies of these gates that wait for a file, and whose runs have none to come any more.

    They are found by the words about their files, which are few and have an index; gates have none for this reason. A
    file may hold several studies, and names one of them: a study waits while any such file of its run is to come.
    """
    said = words.c.reason == Reason.WAITING_FOR_FILE.value, words.c.disposition != literal_column("'released'")
    own = and_(verdicts.c.arrival_id == words.c.arrival_id, verdicts.c.pipeline == words.c.pipeline)
    waiting = select(verdicts.c.study_instance_uid).join_from(words, verdicts, own)
    waiting = waiting.where(words.c.pipeline == pipeline, *said).distinct()
    rows = stage_query(connection, waiting, _SUBJECTS, ["subject"])
    if not count_rows(connection, rows):
        return _WAITING.to_frame()
    # Asked on its own: within the query below PostgreSQL would rather read all gates than ask it for each of the rows.
    runs_to_come = _find_runs_to_come(connection, pipeline)
    named = waits.join(rows, rows.c.subject == gates.c.subject)
    free = named.where(gates.c.reason == Reason.WAITING_FOR_FILE.value, gates.c.run_key.not_in(runs_to_come))
    return fetch(connection, free, _WAITING)


def _find_runs_to_come(connection: Connection, pipeline: str) -> list[str]:
    """Return the runs to which S3 did not give a file, and under whose key no file has been read since.

    The unread files that came under the key since may name another of the studies that the first one holds.
    """
    unread = states.c.study_key.is_not(None), func.coalesce(states.c.sop_instance_uid, "") == ""
    unreleased = states.c.pipeline == pipeline, states.c.disposition != literal_column("'released'")
    stopped = *unreleased, states.c.disposition.in_(STOPPED), *unread
    out_of_reach = states.c.reason.in_([str(reason) for reason in OUT_OF_REACH])
    files = select(*(states.c[name] for name in _FILES)).where(*stopped, out_of_reach).distinct()
    rows = stage_query(connection, files, _FILES, ["key"])
    same_key = and_(states.c.key == rows.c.key, states.c.bucket == rows.c.bucket)
    to_come = select(rows.c.run_key).join_from(rows, states, same_key).where(*stopped, ~superseded("")).distinct()
    return list(connection.scalars(to_come))


def _find_patients(texts: pl.Series) -> pl.Series:
    """Return the patient of each contract that is published as FHIR; a JSON without the field is not parsed."""
    if not texts.str.contains('"fhir"', literal=True).any():
        return pl.Series([None] * texts.len(), dtype=pl.String)
    return texts.str.json_path_match("$.fhir.Patient")


def _fetch_contracts(connection: Connection, datastore_id: str, subjects: pl.Series) -> pl.DataFrame:
    in_store = contracts.c.datastore_id == datastore_id
    return fetch_by_values(connection, contracts, CONTRACTS, subjects, "subject", in_store).sort("subject")


def _fetch_pairs(connection: Connection, *statements: Select[str, str]) -> set[tuple[str, str]]:
    return {(uid, what) for statement in statements for uid, what in connection.execute(statement.distinct())}


def _stage_studies(connection: Connection, uids: pl.Series) -> Table:
    frame = uid_frame(uids, "StudyInstanceUID").with_columns(study_key_of("StudyInstanceUID").alias("study_key"))
    return stage(connection, frame, _STUDY_KEYS, ["study_key"])


def _query_in_flight(rows: Table, datastore_id: str, by_run: str) -> Select[str, str]:
    """Return the query for staged studies with files that another run has not settled, and for these runs."""
    others = and_(in_flight.c.datastore_id == datastore_id, in_flight.c.run_key != by_run)
    joined = select(rows.c.StudyInstanceUID, in_flight.c.run_key)
    return joined.join(in_flight, in_flight.c.study_key == rows.c.study_key).where(others)


def _stage_unreleased(connection: Connection, rows: Table, by_run: str) -> Table:
    """Stage the studies of which another run has settled a file and not released it; usually they are few.

    From a staged table the database knows their number. Otherwise it would expect many and read all arrivals.
    """
    unreleased = words.c.disposition != literal_column("'released'")  # as in the condition of the index
    of_others = exists().where(words.c.study_key == rows.c.study_key, unreleased, words.c.said_by != by_run)
    found = fetch(connection, select(*(rows.c[name] for name in _STUDY_KEYS)).where(of_others), _STUDY_KEYS)
    return stage(connection, found, _STUDY_KEYS, ["study_key"])


def _select_settled_files(settled: Table, datastore_id: str, pipeline: str, by_run: str) -> Select[str, str]:
    """Return the query for the files of staged studies in the data store, from runs other than the calling one."""
    there = exists().where(_ARRIVAL, instances.c.datastore_id == datastore_id)
    in_store = or_(states.c.pipeline == pipeline, states.c.datastore_id == datastore_id, there)
    files = select(settled.c.StudyInstanceUID, states.c.arrival_id)
    return files.join(states, states.c.study_key == settled.c.study_key).where(in_store, states.c.run_key != by_run)


def _query_waiting(
    rows: Table, settled: Table, datastore_id: str, pipeline: str, by_run: str
) -> Iterator[Select[str, str]]:
    """Yield queries for staged studies that wait for a person in the data store."""
    counts = or_(~superseded(by_run), still_owns(datastore_id))
    yield _select_settled_files(settled, datastore_id, pipeline, by_run).where(_WAITS_FOR_A_PERSON, counts)
    unbalanced = and_(gates.c.datastore_id == datastore_id, gates.c.reason == Reason.RUN_UNBALANCED.value)
    held = select(rows.c.StudyInstanceUID, gates.c.run_key).join(gates, gates.c.subject == rows.c.StudyInstanceUID)
    yield held.where(unbalanced, gates.c.run_key != by_run)


def _query_missing(settled: Table, datastore_id: str, pipeline: str, by_run: str) -> Select[str, str]:
    """Return the query for staged studies of which a file was not imported."""
    lost = and_(_did_not_come_in(datastore_id), ~superseded(by_run))
    return _select_settled_files(settled, datastore_id, pipeline, by_run).where(lost)


def _query_lost(rows: Table, datastore_id: str) -> Select[str, str]:
    """Return the query for staged studies of which the data store has lost a file, and nobody has brought it again."""
    imported = exists().where(
        instances.c.datastore_id == datastore_id,
        instances.c.SOPInstanceUID == findings.c.subject,
        instances.c.state == InstanceState.IMPORTED.value,
    )
    lost = and_(
        findings.c.kind == FindingKind.MISSING_IN_STORE.value,
        findings.c.closed_at.is_(None),
        findings.c.datastore_id == datastore_id,
        findings.c.arrival_id.is_not(None),
    )
    joined = select(rows.c.StudyInstanceUID, findings.c.arrival_id)
    return joined.join(findings, findings.c.study_key == rows.c.study_key).where(lost, ~imported)


def _did_not_come_in(datastore_id: str) -> ColumnElement[bool]:
    imported = exists().where(
        instances.c.datastore_id == datastore_id,
        instances.c.SOPInstanceUID == states.c.sop_instance_uid,
        instances.c.state == InstanceState.IMPORTED.value,
    )
    return and_(states.c.disposition.in_(STOPPED), ~imported)
