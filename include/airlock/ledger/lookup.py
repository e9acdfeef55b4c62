"""Answers to people's questions: where is a study or file, which run was it, what is held."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, exists, func, literal_column, or_, select, union_all

from airlock.ledger.arrival_states import arrival_states as states
from airlock.ledger.columns import DecisionKind, OpenState
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import decisions
from airlock.ledger.frames import choose_join, count_rows, fetch, forbid_plans, stage, stage_query, stage_values
from airlock.ledger.gates import overridden, released
from airlock.ledger.open_resources import is_same_resource
from airlock.ledger.parked import fetch_parked
from airlock.ledger.runs import NOT_BEGUN, RunRecord, record
from airlock.ledger.tables import (
    HOLDS,
    arrivals,
    contracts,
    gates,
    in_flight,
    instances,
    open_resources,
    outbox,
    redrives,
    releases,
    resolutions,
    resources,
    runs,
    successors,
    verdicts,
    words,
)
from airlock.ledger.words import latest_word
from airlock.records import ARRIVALS, TIMESTAMP, Disposition, schema, study_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from polars._typing import PolarsDataType
    from sqlalchemy import ColumnElement, Connection, FromClause, Select, Table

_RUN: dict[str, PolarsDataType] = {"run_key": pl.String, "run_id": pl.String}
FOUND_ARRIVALS = schema(
    ARRIVALS,
    {"pipeline": pl.String, "generation": pl.Int64, "superseded_by": pl.String},
    _RUN,
    {"claimed_at": TIMESTAMP, "settled_at": TIMESTAMP},
    dict.fromkeys(
        (
            "disposition",
            "stage",
            "reason",
            "detail",
            "sop_instance_uid",
            "series_instance_uid",
            "study_instance_uid",
            "study_key",
            "batch_id",
            "job_id",
            "image_set_id",
        ),
        pl.String,
    ),
)
FOUND_INSTANCES = schema(
    {"SOPInstanceUID": pl.String, "datastore_id": pl.String, "arrival_id": pl.String, "pipeline": pl.String},
    {"state": pl.String, "image_set_id": pl.String, "image_set_version": pl.Int64},
)
FOUND_RESOURCES = schema(
    {"resource_type": pl.String, "resource_id": pl.String, "datastore_id": pl.String, "pipeline": pl.String},
    {"arrival_id": pl.String, "batch_id": pl.String, "run_key": pl.String},
    {"claimed_arrival_id": pl.String, "claimed_by": pl.String},  # the run that is to import the next content
    {"disposition": pl.String},  # of the stored content; null before the first import
)
FOUND_GATES = schema(
    {"subject": pl.String, "subject_key": pl.String, "datastore_id": pl.String, "pipeline": pl.String},
    _RUN,
    {"gate": pl.String, "reason": pl.String, "released": pl.Boolean, "decided_at": TIMESTAMP},
)
FOUND_OVERRIDES = schema(
    {"subject": pl.String, "datastore_id": pl.String},
    _RUN,
    {"held_reason": pl.String, "overridden_by": pl.String, "override_reason": pl.String, "overridden_at": TIMESTAMP},
)
FOUND_CONTRACTS = schema(
    {"subject": pl.String, "subject_key": pl.String, "datastore_id": pl.String},
    _RUN,
    {"revision": pl.Int64, "content_digest": pl.String, "contract": pl.String},
)
FOUND_ROUTES = schema(
    {"subject_key": pl.String, "pipeline": pl.String, "destination": pl.String, "revision": pl.Int64},
    {"state": pl.String, "attempts": pl.Int64, "next_attempt_at": TIMESTAMP, "sent_at": TIMESTAMP},
    {"last_error": pl.String, "payload_uri": pl.String},
    _RUN,
)
FOUND_UNROUTED = schema(
    {"subject_key": pl.String, "pipeline": pl.String, "datastore_id": pl.String, "revision": pl.Int64},
    {"routes": pl.Int64},  # null: the task route has not matched it yet
    _RUN,
    {"released_at": TIMESTAMP},
)
FOUND_REDRIVES = schema({"pipeline": pl.String}, _RUN, {"asked_by": pl.String, "why": pl.String, "asked_at": TIMESTAMP})
FOUND_RESOLUTIONS = schema(
    dict.fromkeys(("image_set_id", "datastore_id", "resolution", "state", "promoted_id"), pl.String),
    {"begun_at": TIMESTAMP, "ended_at": TIMESTAMP},
    _RUN,
)
FOUND_WAITS = schema(
    {"study_key": pl.String, "datastore_id": pl.String, "pipeline": pl.String},
    _RUN,
    {"state": pl.String},
)
_STUDY_KEYS = pl.Schema({"study_key": pl.String})
_SUBJECTS = pl.Schema({"subject": pl.String, "datastore_id": pl.String})
_SUBJECT_KEY = re.compile(r"[0-9a-f]{16}")

HELD = schema(
    {"pipeline": pl.String, "subject": pl.String, "subject_key": pl.String, "datastore_id": pl.String},
    {"reason": pl.String, "since": TIMESTAMP, "decided_at": TIMESTAMP},
    _RUN,
)
PATIENT_STUDIES = schema(
    {"patient": pl.String, "healthlake": pl.String},  # the Patient, and the data store that has it
    {"study_key": pl.String, "datastore_id": pl.String, "pipeline": pl.String, "revision": pl.Int64},
    {"is_released": pl.Boolean, "outcome": pl.String},  # of `publish.patient_match`; null without it
)
_SAID_OF_STUDIES = {
    "healthlake": "$.fhir.datastore_id",
    "pipeline": "$.pipeline",
    "outcome": "$.patient_match.outcome",
}
UNRELEASED = schema(
    dict.fromkeys(("subject", "datastore_id", "disposition", "reason"), pl.String), {"arrivals": pl.Int64}
)
_NAMED = schema(dict.fromkeys(("subject", "datastore_id", "study_key", "arrival_id", "pipeline"), pl.String))
_FILES = schema(dict.fromkeys(("subject", "datastore_id", "arrival_id", "pipeline"), pl.String))
_FILE = "file/"
_OVERRIDE_COLUMNS = {
    "held_reason": "reason",
    "overridden_by": "decided_by",
    "override_reason": "why",
    "overridden_at": "decided_at",
}
_UNRELEASED = states.c.disposition != literal_column("'released'")  # as in the condition of the index
_NOT_RELEASED = (Disposition.HELD.value, Disposition.QUARANTINED.value, Disposition.FAILED.value)


@dataclass(frozen=True)
class Found:
    """The rows of every table about one study, instance, object, arrival or resource; frames may be empty."""

    known_as: tuple[str, ...]  # the kinds of name, of `LOOKED_FOR_AS`, that the text is
    arrivals: pl.DataFrame
    instances: pl.DataFrame
    resources: pl.DataFrame
    gates: pl.DataFrame
    overrides: pl.DataFrame
    contracts: pl.DataFrame
    routes: pl.DataFrame
    unrouted: pl.DataFrame  # released, and not (yet) taken by a route
    waits_for: pl.DataFrame  # runs that have not settled their files of a study, or have yet to read them
    redrives: pl.DataFrame  # runs that redrove one of the arrivals
    resolutions: pl.DataFrame  # of an image set that holds or held one of the arrivals
    parked: pl.DataFrame  # resources that wait for others, `parked.FOUND_PARKED`


LOOKED_FOR_AS = (
    *("StudyInstanceUID", "study_key", "SOPInstanceUID", "key", "arrival_id", "resource", "subject"),
    "subject_key",
)


class Lookup(Store):
    """The ledger's methods for people's questions."""

    def find_run(self, pipeline: str, run: str | None = None) -> RunRecord | None:
        """Return a pipeline's run by its key or by Airflow's run id; without either, the run that began last."""
        of_pipeline = runs.c.pipeline == pipeline
        named = runs.c.state.not_in(NOT_BEGUN) if run is None else or_(runs.c.run_key == run, runs.c.run_id == run)
        statement = select(runs).where(of_pipeline, named).order_by(runs.c.started_at.desc()).limit(1)
        with self._reading() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else record(row)

    def where(self, text: str, datastore_id: str | None = None) -> Found:
        """Return everything that the ledger knows about a study, instance, object, arrival or FHIR resource.

        Parameters
        ----------
        text
            A Study Instance UID or study key, a SOP Instance UID, an object's key (with or without
            ``s3://bucket/``), an arrival id, ``Type/id`` of a resource, another subject of a gate, or the key of one
            that is held or was released, as ``airlock held`` shows it.
        datastore_id
            The data store that is meant where each has its own person by the name: what others have by it is left out.
            By default all are meant, or those to which a subject's key belongs.
        """
        with self._reading() as connection:
            parts = {
                way: _fetch_all(connection, statements, FOUND_ARRIVALS)
                for way, statements in _select_by_each_name(text).items()
            }
            files = pl.concat(parts.values()).unique(["arrival_id", "pipeline"])
            files = files.sort("claimed_at", "key", "arrival_id")
            ids = stage_values(connection, files["arrival_id"], "arrival_id")
            brought = _fetch_instances(connection, text, ids)
            held = _keep_stores(_fetch_resources(connection, text, ids), datastore_id)
            waiting = _keep_stores(fetch_parked(connection, text, ids), datastore_id)
            by_key = _find_subjects(connection, "" if files.height else text)
            meant = (datastore_id,) if by_key.is_empty() else by_key["datastore_id"]
            named = pl.concat([_name_subjects(files, text), by_key["subject"]], rechunk=True)
            subjects = stage_values(connection, named, "subject")
            known = {
                name: _keep_stores(_fetch_about_subjects(connection, subjects, table, columns), *meant)
                for name, (table, columns) in _ABOUT_SUBJECTS.items()
            }
            keys = stage_values(connection, _name_subject_keys(files, known), "subject_key")
            routes = _fetch_by_key(connection, keys, outbox, FOUND_ROUTES).sort("destination", "revision")
            again = stage_values(connection, files["run_key"], "run_key")
            asked = _fetch_by_key(connection, again, redrives, FOUND_REDRIVES).sort("asked_at")
            done = _fetch_by_key(connection, again, resolutions, FOUND_RESOLUTIONS).sort("begun_at", "image_set_id")
            newest = _fetch_by_key(connection, keys, releases, FOUND_UNROUTED).sort("pipeline", "subject_key")
            without = newest.filter(pl.col("routes").is_null() | (pl.col("routes") == 0))
            studies = stage_values(connection, _name_subject_keys(files, known), "study_key")
            flying = _fetch_by_key(connection, studies, in_flight, FOUND_WAITS).sort("study_key", "run_id")
        if "/" in text and files.is_empty():
            parts["resource"] = waiting if held.is_empty() else held
        if not known["gates"].filter(pl.col("subject") == text).is_empty():
            parts.setdefault("subject", known["gates"])
        if not by_key.is_empty():
            parts["subject_key"] = known["gates"]
        known_as = tuple(way for way in LOOKED_FOR_AS if way in parts and not parts[way].is_empty())
        theirs = done.filter(pl.col("image_set_id").is_in(files["image_set_id"].drop_nulls().implode()))
        more = {"routes": routes, "unrouted": without, "waits_for": flying, "redrives": asked, "resolutions": theirs}
        return Found(known_as, files, brought, held, **known, **more, parked=waiting)

    def count_shared_studies(self, pipeline: str, run_key: str, others: Collection[str]) -> int:
        """Return of how many studies both a run and one of these other runs of its pipeline have a file."""
        of_arrival = and_(verdicts.c.arrival_id == arrivals.c.arrival_id, verdicts.c.pipeline == arrivals.c.pipeline)
        own = select(verdicts.c.study_key).join_from(arrivals, verdicts, of_arrival).distinct()
        own = own.where(
            arrivals.c.run_key == run_key, arrivals.c.pipeline == pipeline, verdicts.c.study_key.is_not(None)
        )
        with self._reading() as connection:
            # By study, not by file: each file of a study would be compared with all files of the study.
            studies = stage_query(connection, own, _STUDY_KEYS, ["study_key"])
            theirs = exists().where(
                of_arrival,
                verdicts.c.study_key == studies.c.study_key,
                arrivals.c.run_key.in_(others),
                arrivals.c.pipeline == pipeline,
            )
            return count_rows(connection, select(studies).where(theirs).subquery())

    def studies_of_patients(self, names: pl.Series) -> pl.DataFrame:
        """Return the studies that are or will be published for Patients (``Patient/<id>``), as `PATIENT_STUDIES`.

        The latest contract of a study counts; ``is_released`` says whether that is the released revision.
        """
        released = exists().where(
            releases.c.subject_key == contracts.c.subject_key,
            releases.c.datastore_id == contracts.c.datastore_id,
            releases.c.revision == contracts.c.revision,
        )
        known = ("patient", "subject_key", "datastore_id", "revision", "contract")
        columns = schema(
            {"patient": pl.String, "study_key": pl.String, "datastore_id": pl.String, "revision": pl.Int64},
            {"contract": pl.String, "is_released": pl.Boolean},
        )
        with self._reading() as connection:
            rows = stage_values(connection, names, "patient")
            theirs = contracts.c.patient == rows.c.patient
            statement = select(*(contracts.c[name] for name in known), released).join_from(rows, contracts, theirs)
            found = fetch(connection, statement, columns)
        said = (pl.col("contract").str.json_path_match(path).alias(name) for name, path in _SAID_OF_STUDIES.items())
        return found.with_columns(said).select(PATIENT_STUDIES.names()).sort("patient", "study_key", "datastore_id")

    def held(self, pipeline: str | None = None) -> pl.DataFrame:
        """Return the subjects whose latest gate is a hold that nobody has overridden, as `HELD`; the oldest first."""
        statement = _run_columns(gates, HELD, decided_at=gates.c.decided_at, since=gates.c.decided_at)
        statement = statement.where(is_held())
        if pipeline is not None:
            statement = statement.where(runs.c.pipeline == pipeline)
        with self._reading() as connection:
            rows = fetch(connection, statement, HELD).sort("decided_at", "run_key")
        latest = pl.all().exclude("subject", "datastore_id", "since").last()
        one_each = rows.group_by("subject", "datastore_id", maintain_order=True).agg(latest, pl.col("since").min())
        return one_each.select(HELD.names()).sort("since", "subject_key")

    def unreleased(self, held: pl.DataFrame) -> pl.DataFrame:
        """Count the held, quarantined and failed arrivals of each held study or file by reason, as `UNRELEASED`.

        The arrivals of all pipelines that have decided on the subject in its data store count.

        Parameters
        ----------
        held
            `HELD`.
        """
        frame = held.select("subject", "datastore_id").with_columns(
            study_key=pl.col("subject").map_elements(study_key, return_dtype=pl.String),
            arrival_id=pl.when(pl.col("subject").str.starts_with(_FILE)).then(
                pl.col("subject").str.strip_prefix(_FILE)
            ),
        )
        with self._reading() as connection:
            rows = stage(connection, frame, frame.schema, ["subject"])
            files = _stage_files(connection, rows)
            with forbid_plans(connection, *choose_join(connection, words, files)):
                found = fetch(connection, _count_unreleased(files), UNRELEASED)
        return found.sort("subject", "datastore_id", "arrivals", "reason", descending=[False, False, True, False])


def is_held() -> ColumnElement[bool]:
    """Return the condition that a gate holds its subject, and that neither a person nor a later gate released it."""
    later = gates.alias("later")
    again = and_(
        later.c.subject == gates.c.subject,
        later.c.datastore_id == gates.c.datastore_id,
        later.c.decided_at > gates.c.decided_at,
        released(later),
    )
    return and_(literal_column(f"gates.{HOLDS}"), ~overridden(gates), ~exists().where(again))


def _stage_files(connection: Connection, rows: Table) -> Table:
    """Stage the arrivals of staged subjects, of the pipelines that have decided on them in their data stores.

    From a staged table the database knows the number of studies. Otherwise it would expect many and read all arrivals.
    """
    decided = and_(gates.c.subject == rows.c.subject, gates.c.datastore_id == rows.c.datastore_id)
    deciding = select(*rows.c, runs.c.pipeline).join_from(rows, gates, decided)
    by_pipeline = deciding.join(runs, runs.c.run_key == gates.c.run_key).distinct()
    named = stage_query(connection, by_pipeline, _NAMED, ["study_key"])
    about = named.c.subject, named.c.datastore_id
    same = and_(verdicts.c.study_key == named.c.study_key, verdicts.c.pipeline == named.c.pipeline)
    of_study = select(*about, verdicts.c.arrival_id, verdicts.c.pipeline).join_from(named, verdicts, same)
    itself = select(*about, named.c.arrival_id, named.c.pipeline).where(named.c.arrival_id.is_not(None))
    with forbid_plans(connection, "hashjoin", "mergejoin"):
        return stage_query(connection, union_all(of_study, itself), _FILES)


def _count_unreleased(files: Table) -> Select[Any]:
    groups = files.c.subject, files.c.datastore_id, words.c.disposition, words.c.reason
    is_one = and_(words.c.arrival_id == files.c.arrival_id, words.c.pipeline == files.c.pipeline)
    superseded = exists().where(
        successors.c.arrival_id == files.c.arrival_id,
        successors.c.pipeline == files.c.pipeline,
        successors.c.superseded_by.is_not(None),
    )
    counted = words.c.disposition.in_(_NOT_RELEASED), latest_word(), ~superseded
    return select(*groups, func.count()).join_from(files, words, is_one).where(*counted).group_by(*groups)


def _run_columns(table: FromClause, columns: Iterable[str], **own: ColumnElement[Any]) -> Select[Any]:
    """Return the query for a table's columns; columns that it lacks come from the run of each row."""
    found: Mapping[str, Any] = {**runs.c, **table.c, **own}
    return select(*(found[name] for name in columns)).join_from(table, runs, runs.c.run_key == table.c.run_key)


_ARRIVALS = _run_columns(states, FOUND_ARRIVALS)
_OVERRIDES = (
    select(decisions, *(decisions.c[name].label(other) for other, name in _OVERRIDE_COLUMNS.items()))
    .where(decisions.c.kind == DecisionKind.OVERRIDE.value)
    .subquery("overrides")
)
_ABOUT_SUBJECTS: dict[str, tuple[FromClause, pl.Schema]] = {
    "gates": (gates, FOUND_GATES),
    "overrides": (_OVERRIDES, FOUND_OVERRIDES),
    "contracts": (contracts, FOUND_CONTRACTS),
}


def _select_by_each_name(text: str) -> dict[str, list[Select[Any]]]:
    """Return, for each kind of name that a text may be, the queries for its arrivals; each of them uses an index."""
    bucket, _, key = text.removeprefix("s3://").partition("/") if text.startswith("s3://") else ("", "", text)
    of_key = _ARRIVALS.where(states.c.key == key)
    owner = and_(instances.c.arrival_id == states.c.arrival_id, instances.c.pipeline == states.c.pipeline)
    return {
        "StudyInstanceUID": [_ARRIVALS.where(states.c.study_key == study_key(text))],
        "study_key": [_ARRIVALS.where(states.c.study_key == text)],
        "SOPInstanceUID": [  # a released arrival owns its instance
            _ARRIVALS.join(instances, owner).where(instances.c.SOPInstanceUID == text),
            _ARRIVALS.where(states.c.unreleased_instance_uid == text, _UNRELEASED),
        ],
        "key": [of_key.where(states.c.bucket == bucket) if bucket else of_key],
        "arrival_id": [_ARRIVALS.where(states.c.arrival_id == text)],
    }


def _fetch_all(connection: Connection, statements: Iterable[Select[Any]], columns: pl.Schema) -> pl.DataFrame:
    return pl.concat([fetch(connection, statement, columns) for statement in statements])


def _name_subjects(files: pl.DataFrame, text: str) -> pl.Series:
    """Return the possible subjects of gates and contracts: the arrivals' studies and files, and the text itself."""
    of_files = (_FILE + files["arrival_id"]) if files.height else files["arrival_id"]
    named = pl.Series([text], dtype=pl.String)
    return pl.concat([files["study_instance_uid"], of_files, named], rechunk=True)


def _find_subjects(connection: Connection, text: str) -> pl.DataFrame:
    """Return the subjects of gates whose key a text is: held ones, and those of which a contract was released."""
    if not _SUBJECT_KEY.fullmatch(text):
        return _SUBJECTS.to_frame()
    subjects = select(*(gates.c[name] for name in _SUBJECTS))
    held = subjects.where(literal_column(f"gates.{HOLDS}"), gates.c.subject_key == text)
    of_release = and_(gates.c.run_key == releases.c.run_key, gates.c.subject_key == releases.c.subject_key)
    released_ones = subjects.join_from(releases, gates, of_release)
    both = [held, released_ones.where(releases.c.subject_key == text)]
    return _fetch_all(connection, both, _SUBJECTS).unique().sort("subject", "datastore_id")


def _keep_stores(found: pl.DataFrame, *stores: str | None) -> pl.DataFrame:
    """Return what is of these data stores; everything if None is given."""
    return found if None in stores else found.filter(pl.col("datastore_id").is_in(stores))


def _fetch_about_subjects(
    connection: Connection, subjects: Table, table: FromClause, columns: pl.Schema
) -> pl.DataFrame:
    own = {"released": released(gates)} if table is gates else {}
    statement = _run_columns(table, columns, **own).join(subjects, subjects.c.subject == table.c.subject)
    order = next(name for name in ("overridden_at", "decided_at", "revision") if name in columns)
    return fetch(connection, statement, columns).sort("subject", "datastore_id", order)


def _fetch_instances(connection: Connection, text: str, ids: Table) -> pl.DataFrame:
    columns = select(*(instances.c[name] for name in FOUND_INSTANCES))
    brought = columns.join(ids, ids.c.arrival_id == instances.c.arrival_id)
    both = [brought, columns.where(instances.c.SOPInstanceUID == text)]
    found = _fetch_all(connection, both, FOUND_INSTANCES)
    return found.unique(["SOPInstanceUID", "datastore_id"]).sort("SOPInstanceUID", "datastore_id")


def _fetch_resources(connection: Connection, text: str, ids: Table) -> pl.DataFrame:
    known: dict[str, Any] = {**dict(resources.c.items()), "disposition": _dispose()}
    columns = select(*(known[name] for name in FOUND_RESOURCES))
    kind, _, name = text.partition("/")
    named = and_(resources.c.resource_id == name, resources.c.resource_type == kind)
    both = [columns.join(ids, ids.c.arrival_id == resources.c.arrival_id), columns.where(named)]
    found = _fetch_all(connection, both, FOUND_RESOURCES)
    key = ["resource_type", "resource_id", "datastore_id"]
    return found.unique(key).sort(key)


def _dispose() -> ColumnElement[str | None]:
    """Return the disposition of a resource's stored content: held while a run holds it or doubts it."""
    unproven = open_resources.c.state.in_((OpenState.HELD.value, OpenState.DOUBTFUL.value))
    return case(
        (resources.c.content_digest.is_(None), None),
        (exists().where(is_same_resource(), unproven), Disposition.HELD.value),
        else_=Disposition.RELEASED.value,
    )


def _name_subject_keys(files: pl.DataFrame, known: Mapping[str, pl.DataFrame]) -> pl.Series:
    return pl.concat([files["study_key"], known["gates"]["subject_key"], known["contracts"]["subject_key"]])


def _fetch_by_key(connection: Connection, keys: Table, table: FromClause, columns: pl.Schema) -> pl.DataFrame:
    (key,) = keys.c
    return fetch(connection, _run_columns(table, columns).join(keys, key == table.c[key.name]), columns)
