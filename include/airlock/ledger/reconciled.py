"""What a ledger says is in a data store, page by page, for its comparison with the store; and what the store has lost.

A reconciliation reads whole studies or resources in the order of an index, so that its memory does not grow and it can
go on after an interruption. What the store has lost no longer counts as stored: the rows of its instances are deleted,
and the findings keep their facts until a redrive has imported them again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, delete, exists, func, insert, or_, select, union, update

from airlock.ledger import clock
from airlock.ledger.columns import DecisionKind, FindingKind, InstanceState
from airlock.ledger.comparison_tables import comparisons, findings, foreign_sets
from airlock.ledger.comparisons import SCOPE as FINDINGS_SCOPE
from airlock.ledger.comparisons import Comparisons, is_decided
from airlock.ledger.decision_tables import decisions
from airlock.ledger.frames import (
    fetch,
    fetch_by_values,
    insert_missing,
    select_schema,
    stage,
    stage_values,
)
from airlock.ledger.instances import SCOPE as INSTANCES
from airlock.ledger.journal import journaled
from airlock.ledger.tables import (
    arrivals,
    contracts,
    instances,
    jobs,
    releases,
    resolutions,
    run_totals,
    series,
    studies,
    verdicts,
    words,
)
from airlock.ledger.words import latest_word
from airlock.records import Disposition, digest

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

STORED = pl.Schema(
    {
        "SOPInstanceUID": pl.String,
        "SeriesInstanceUID": pl.String,
        "StudyInstanceUID": pl.String,
        "arrival_id": pl.String,
        "pipeline": pl.String,
        "state": pl.String,  # imported or non_primary
        "image_set_id": pl.String,
        "image_set_version": pl.Int64,  # after its import; null where the job's result did not say it
        "batch_id": pl.String,
        "bucket": pl.String,  # null where the arrival's row is gone, as all below
        "key": pl.String,
        "etag": pl.String,
        "size": pl.Int64,
        "disposition": pl.String,
    }
)
LOST = pl.Schema(dict.fromkeys(("subject", "study_key", "arrival_id", "image_set_id", "expected"), pl.String))
PAYLOADS = pl.Schema(dict.fromkeys(("subject_key", "pipeline", "payload_uri"), pl.String))
OUTPUTS = pl.Schema(dict.fromkeys(("batch_id", "job_id", "run_key", "output_uri"), pl.String))
MISSED = pl.Schema(dict.fromkeys(("SOPInstanceUID", "datastore_id", "image_set_id"), pl.String))
_RESTORED = pl.Schema(
    {
        "subject": pl.String,
        "arrival_id": pl.String,
        "image_set_id": pl.String,
        "version": pl.Int64,
        "state": pl.String,
    }
)
_GROUPS = pl.Schema(dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "datastore_id"), pl.String))
_MISSING = findings.c.kind == FindingKind.MISSING_IN_STORE.value
_IS_OPEN = findings.c.closed_at.is_(None)
_IN_STORE = instances.c.state != InstanceState.CLAIMED.value


class Reconciled(Comparisons):
    """The ledger's methods for its comparison with a data store."""

    def count_store_contents(self, datastore_id: str, pipeline: str) -> dict[str, int]:
        """Return how many ``studies`` and ``series`` a data store has, and released ``objects`` and ``bytes``."""
        released = run_totals.c.pipeline == pipeline, run_totals.c.disposition == Disposition.RELEASED.value
        sums = func.coalesce(func.sum(run_totals.c.arrivals), 0), func.coalesce(func.sum(run_totals.c.bytes), 0)
        with self._reading() as connection:
            counts = {
                table.name: int(
                    connection.scalar(select(func.count()).where(table.c.datastore_id == datastore_id)) or 0
                )
                for table in (studies, series)
            }
            objects, size = connection.execute(select(*sums).where(*released)).one()
        return counts | {"objects": int(objects), "bytes": int(size)}

    def stored_studies(self, datastore_id: str, after: str, limit: int) -> list[str]:
        """Return the next StudyInstanceUIDs with instances or a contract in a data store, in the database's order.

        *after* is the last study of the page before; "" for the first page.
        """
        uid = instances.c.StudyInstanceUID
        imported = select(uid.label("uid")).where(instances.c.datastore_id == datastore_id, _IN_STORE, uid > after)
        named = select(contracts.c.subject.label("uid")).where(
            contracts.c.datastore_id == datastore_id, contracts.c.subject > after
        )
        first = imported.distinct().order_by(uid).limit(limit).subquery()
        second = named.order_by(contracts.c.subject).limit(limit).subquery()
        both = union(select(first.c.uid), select(second.c.uid)).subquery()
        with self._reading() as connection:
            return list(connection.scalars(select(both.c.uid).order_by(both.c.uid).limit(limit)))

    def known_studies_in(self, datastore_id: str, uids: pl.Series) -> set[str]:
        """Return those of the studies of which a data store has an instance, or a contract, by the ledger."""
        with self._reading() as connection:
            rows = stage_values(connection, uids, "uid")
            uid = rows.c.uid
            imported = exists().where(
                instances.c.StudyInstanceUID == uid, instances.c.datastore_id == datastore_id, _IN_STORE
            )
            named = exists().where(contracts.c.subject == uid, contracts.c.datastore_id == datastore_id)
            return set(connection.scalars(select(uid).where(or_(imported, named))))

    def sampled_studies(self, datastore_id: str, start: str, limit: int) -> list[str]:
        """Return the studies of a data store with the next study keys from one on: a sample, since keys are hashes."""
        there = exists().where(
            instances.c.StudyInstanceUID == verdicts.c.study_instance_uid,
            instances.c.datastore_id == datastore_id,
            _IN_STORE,
        )
        statement = (
            select(verdicts.c.study_key, verdicts.c.study_instance_uid)
            .where(verdicts.c.study_key >= start, verdicts.c.study_instance_uid.is_not(None), there)
            .distinct()
            .order_by(verdicts.c.study_key)
            .limit(limit)
        )
        with self._reading() as connection:
            return [uid for _, uid in connection.execute(statement)]

    def studies_of_key(self, datastore_id: str, study_key: str) -> list[str]:
        """Return the StudyInstanceUID of a study key in a data store; none if the ledger does not know it."""
        decided = select(verdicts.c.study_instance_uid).where(
            verdicts.c.study_key == study_key, verdicts.c.study_instance_uid.is_not(None)
        )
        named = select(contracts.c.subject).where(
            contracts.c.subject_key == study_key, contracts.c.datastore_id == datastore_id
        )
        with self._reading() as connection:
            return sorted({*connection.scalars(decided.distinct()), *connection.scalars(named)})

    def stored_instances(self, datastore_id: str, uids: pl.Series) -> pl.DataFrame:
        """Return the instances of these studies that a data store has by the ledger, as `STORED`, sorted."""
        own = and_(arrivals.c.arrival_id == instances.c.arrival_id, arrivals.c.pipeline == instances.c.pipeline)
        said = and_(
            words.c.arrival_id == instances.c.arrival_id, words.c.pipeline == instances.c.pipeline, latest_word()
        )
        columns: dict[str, ColumnElement[Any]] = {
            **dict(arrivals.c.items()),
            **dict(instances.c.items()),
            "disposition": words.c.disposition,
        }
        with self._reading() as connection:
            rows = stage_values(connection, uids, "StudyInstanceUID")
            statement = (
                select(*(columns[name] for name in STORED))
                .join_from(rows, instances, instances.c.StudyInstanceUID == rows.c.StudyInstanceUID)
                .outerjoin(arrivals, own)
                .outerjoin(words, said)
                .where(instances.c.datastore_id == datastore_id, _IN_STORE)
            )
            return fetch(connection, statement, STORED).sort("StudyInstanceUID", "image_set_id", "SOPInstanceUID")

    def find_expected_sets(self, datastore_id: str, image_sets: pl.Series) -> set[str]:
        """Return those of the image sets for whose being in the data store the ledger has a reason beside instances.

        Others had stored them before the store was adopted, or a redrive is promoting or deleting them.
        """
        with self._reading() as connection:
            rows = stage_values(connection, image_sets, "object_id")
            named = select(rows.c.object_id)
            before = select(foreign_sets.c.object_id).where(
                foreign_sets.c.datastore_id == datastore_id, foreign_sets.c.object_id.in_(named)
            )
            resolved = [
                select(column).where(resolutions.c.datastore_id == datastore_id, column.in_(named))
                for column in (resolutions.c.image_set_id, resolutions.c.promoted_id)
            ]
            return {name for statement in (before, *resolved) for name in connection.scalars(statement)}

    def find_image_sets(self, datastore_id: str, image_sets: pl.Series) -> set[str]:
        """Return those of the image sets that hold an instance of the ledger; it reads all instances of the store."""
        with self._reading() as connection:
            rows = stage_values(connection, image_sets, "object_id")
            statement = select(instances.c.image_set_id).where(
                instances.c.datastore_id == datastore_id, instances.c.image_set_id.in_(select(rows.c.object_id))
            )
            return set(connection.scalars(statement.distinct()))

    def find_arrived(self, objects: pl.DataFrame) -> set[tuple[str, str, str]]:
        """Return those of the objects (bucket, key, etag) that are arrivals of a pipeline, whatever became of them."""
        columns = pl.Schema(dict.fromkeys(("bucket", "key", "etag"), pl.String))
        with self._reading() as connection:
            rows = stage(connection, select_schema(objects, columns).unique(), columns, ["key"])
            same = and_(*(arrivals.c[name] == rows.c[name] for name in columns))
            found = select(*(rows.c[name] for name in columns)).join(arrivals, same).distinct()
            return {(bucket, key, etag) for bucket, key, etag in connection.execute(found)}

    def find_payloads(self, datastore_id: str, study_keys: pl.Series) -> pl.DataFrame:
        """Return the addresses of the latest released contracts of these subjects, as `PAYLOADS`."""
        with self._reading() as connection:
            of_store = releases.c.datastore_id == datastore_id
            return fetch_by_values(connection, releases, PAYLOADS, study_keys, "subject_key", of_store).sort(
                "subject_key", "pipeline"
            )

    def find_outputs(self, batch_ids: pl.Series) -> pl.DataFrame:
        """Return the output of the last job of each batch, as `OUTPUTS`; no row for a batch without a job."""
        later = jobs.alias("later")
        is_last = ~exists().where(later.c.batch_id == jobs.c.batch_id, later.c.generation > jobs.c.generation)
        with self._reading() as connection:
            return fetch_by_values(connection, jobs, OUTPUTS, batch_ids, "batch_id", is_last).sort("batch_id")

    @journaled(result="removed", skip_zero=True)  # a removal of nothing is refused
    def record_removal(self, pipeline: str, datastore_id: str, study_key: str, decided_by: str, why: str) -> int:
        """Record a person's decision that what a data store lacks of a study was removed on purpose.

        The findings about it are closed: no redrive takes it, and it does not hold the study.

        Returns
        -------
        int
            The number of instances; nothing is recorded if there are none.
        """
        now = clock.now()
        with self._writing(FINDINGS_SCOPE) as connection:
            number = close_removed(connection, datastore_id, study_key, decided_by, now)
            if number:
                add_removal(connection, (pipeline, datastore_id, study_key, decided_by, why), number, now)
            return number

    def find_lost(self, datastore_id: str, subjects: pl.Series) -> set[str]:
        """Return those of the instances or resources that are known to be lost, or that a person has removed."""
        keys = pl.Series(map(digest, subjects.drop_nulls().unique()), dtype=pl.String)
        with self._reading() as connection:
            rows = stage_values(connection, keys, "subject_key")
            named = findings.c.subject_key.in_(select(rows.c.subject_key))
            removed = exists().where(
                decisions.c.kind == DecisionKind.FORGET.value,
                decisions.c.subject_key == findings.c.study_key,
                decisions.c.datastore_id == datastore_id,
            )
            known = _MISSING, or_(_IS_OPEN, removed), findings.c.datastore_id == datastore_id
            statement = select(findings.c.subject).where(*known, named)
            return set(connection.scalars(statement.distinct()))

    def find_open_losses(self, comparison: int, limit: int, study_key: str | None = None) -> pl.DataFrame:
        """Return what earlier reconciliations missed and this one has not seen yet, as `LOST`, by their subjects.

        An instance that was imported again, into another image set, is left out, and so are losses that another
        pipeline found.
        """
        again = exists().where(
            instances.c.SOPInstanceUID == findings.c.subject,
            instances.c.datastore_id == findings.c.datastore_id,
            _IN_STORE,
            instances.c.image_set_id != findings.c.image_set_id,
        )
        this = and_(
            comparisons.c.id == comparison,
            comparisons.c.pipeline == findings.c.pipeline,
            comparisons.c.datastore_id == findings.c.datastore_id,
        )
        conditions = [_MISSING, _IS_OPEN, findings.c.comparison_id < comparison, exists().where(this)]
        if study_key is not None:
            conditions.append(findings.c.study_key == study_key)
        statement = select(*(findings.c[name] for name in LOST)).where(*conditions, ~again)
        with self._reading() as connection:
            return fetch(connection, statement.order_by(findings.c.subject).limit(limit), LOST)

    def count_missing(self, comparison: int) -> int:
        """Return how many instances that a reconciliation missed still count as stored."""
        with self._reading() as connection:
            counted = select(func.count()).select_from(instances).where(_is_missed(comparison))
            return int(connection.execute(counted).scalar_one())

    def forget_missing(self, comparison: int) -> int:
        """Delete the rows of the instances that a reconciliation missed: they no longer count as stored.

        A later delivery or a redrive imports them again. An instance that a run has claimed or imported anew since is
        in another image set, or has no image set yet, and stays.

        Returns
        -------
        int
            The number of instances.
        """
        with self.at_once(INSTANCES, FINDINGS_SCOPE, keep_first=True) as inner:
            inner.keep_losses(comparison)
            return inner.forget_instances(inner.find_missed(comparison))

    def find_missed(self, comparison: int) -> pl.DataFrame:
        """Return the instances that a reconciliation missed and that still count as stored, as `MISSED`."""
        columns = (instances.c[name] for name in MISSED)
        with self._reading() as connection:
            return fetch(connection, select(*columns).where(_is_missed(comparison)), MISSED)

    @journaled()
    def forget_instances(self, missed: pl.DataFrame) -> int:
        """Delete the rows of these instances, `MISSED`, unless they are in another image set by now.

        The grouping elements of a study or series of which the data store has nothing left are deleted too: what comes
        next need not agree with them.
        """
        with self._writing(INSTANCES) as connection:
            rows = stage(connection, missed, MISSED, ["SOPInstanceUID"])
            same = (instances.c[name] == rows.c[name] for name in MISSED)
            # The list lets SQLite look the few up; by the second condition alone it would read all instances.
            named = instances.c.SOPInstanceUID.in_(select(rows.c.SOPInstanceUID))
            missing = and_(named, exists(select(rows.c.image_set_id).where(*same)))
            groups = fetch(connection, select(*(instances.c[name] for name in _GROUPS)).where(missing), _GROUPS)
            number = connection.execute(delete(instances).where(missing)).rowcount
            _delete_empty_groups(connection, groups)
            return number

    @journaled()
    def restore_found(self, datastore_id: str, found: pl.DataFrame) -> int:
        """Restore the rows of instances that were missed and are in the data store after all; return their number.

        *found* has ``subject`` (a SOPInstanceUID), ``arrival_id``, ``image_set_id``, ``version`` and ``state``. An
        instance that another arrival has claimed or imported since stays as it is.
        """
        with self._writing(INSTANCES) as connection:
            rows = stage(connection, select_schema(found, _RESTORED), _RESTORED, ["arrival_id"])
            columns: dict[str, ColumnElement[Any]] = {
                "SOPInstanceUID": rows.c.subject,
                "SeriesInstanceUID": verdicts.c.series_instance_uid,
                "StudyInstanceUID": verdicts.c.study_instance_uid,
                "arrival_id": rows.c.arrival_id,
                "pipeline": verdicts.c.pipeline,
                "image_set_id": rows.c.image_set_id,
                "image_set_version": rows.c.version,
                "state": rows.c.state,
            }
            known = select(*(column.label(name) for name, column in columns.items())).join_from(
                rows, verdicts, verdicts.c.arrival_id == rows.c.arrival_id
            )
            whole = known.where(verdicts.c.series_instance_uid.is_not(None)).subquery()
            key = ["SOPInstanceUID", "datastore_id"]
            return insert_missing(connection, instances, whole, key, datastore_id=datastore_id)


def close_removed(connection: Connection, datastore_id: str, study_key: str, decided_by: str, now: datetime) -> int:
    """Close the findings about what a data store lacks of a study; return their number."""
    lost = _MISSING, _IS_OPEN, findings.c.datastore_id == datastore_id, findings.c.study_key == study_key
    return connection.execute(update(findings).where(*lost).values(closed_at=now, closed_by=decided_by)).rowcount


def add_removal(
    connection: Connection, decision: tuple[str, str, str, str, str], instances: int, now: datetime
) -> None:
    """Add to the decision log that instances were removed: pipeline, data store, study key, person and reason."""
    names = ("pipeline", "datastore_id", "subject_key", "decided_by", "why")
    values = dict(zip(names, decision, strict=True)) | {"kind": DecisionKind.FORGET.value, "decided_at": now}
    connection.execute(insert(decisions).values(values | {"details": json.dumps({"instances": instances})}))


def _delete_empty_groups(connection: Connection, groups: pl.DataFrame) -> None:
    """Delete the grouping elements of those of the studies and series, `_GROUPS`, that have no stored instance."""
    for table, uid in ((series, "SeriesInstanceUID"), (studies, "StudyInstanceUID")):
        key = (uid, "datastore_id")
        rows = stage(connection, groups.select(key).unique(), pl.Schema(dict.fromkeys(key, pl.String)), [uid])
        of_row = exists(select(rows.c[uid]).where(*(rows.c[name] == table.c[name] for name in key)))
        is_left = exists().where(
            _IN_STORE, *(instances.c[name] == table.c[name] for name in {"StudyInstanceUID", *key})
        )
        connection.execute(delete(table).where(table.c[uid].in_(select(rows.c[uid])), of_row, ~is_left))


def _is_missed(comparison: int) -> ColumnElement[bool]:
    """Return the condition that a reconciliation has missed an instance in the image set of its row."""
    conditions = findings.c.comparison_id == comparison, _MISSING, _IS_OPEN, is_decided()
    missed = select(findings.c.subject).where(*conditions)
    same_set = exists().where(
        *conditions,
        findings.c.subject == instances.c.SOPInstanceUID,
        findings.c.datastore_id == instances.c.datastore_id,
        findings.c.image_set_id == instances.c.image_set_id,
    )
    # The list lets a database look the few missed instances up; by the second condition alone it would read them all.
    return and_(instances.c.SOPInstanceUID.in_(missed), _IN_STORE, same_set)
