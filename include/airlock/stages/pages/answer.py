"""The answer to "where is it?": a headline, a time line, and the files, of the pipelines that a person may read.

Keys, UIDs, other identifiers and texts from files are None unless they are to be shown.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.reasons import OWED_SENTENCES, SENTENCES
from airlock.stages.pages.numbers import moment, plural
from airlock.stages.pages.tonight import Grade

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import datetime

    from airlock.ledger import Found

MOST_FILES = 100
_GRADES = {
    "released": Grade.GOOD,
    "duplicate": Grade.GOOD,
    "ignored": Grade.GOOD,
    "held": Grade.ATTENTION,
    "quarantined": Grade.BAD,
    "failed": Grade.BAD,
}
_IN_WORDS = {"quarantined": "rejected"}
NOT_SENT = "not at a destination: no route takes it, or the task route has not run since"
NOTHING = (
    "Nothing is known of it, or it belongs to a pipeline that you may not read. An object that no run has listed is "
    "unknown; an object that no run has read is known by its key only."
)


@dataclass(frozen=True)
class Event:
    """Something that happened, with the run that did it."""

    at: datetime | None
    grade: Grade
    text: str
    pipeline: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class FileRow:
    """A file with what became of it; the fields up to the detail are None unless identifiers are shown."""

    key: str | None
    sop_instance_uid: str | None
    series_instance_uid: str | None
    detail: str | None
    arrival_id: str
    pipeline: str
    size: int
    disposition: str
    reason: str | None
    stage: str | None
    image_set_id: str | None
    job_id: str | None
    settled_at: datetime | None


@dataclass(frozen=True)
class Answer:
    """What the ledger knows, for one person."""

    known_as: tuple[str, ...]
    headline: str
    grade: Grade
    pipelines: tuple[str, ...]
    study_keys: tuple[str, ...]
    subjects: tuple[str | None, ...]  # Study Instance UIDs and other subjects; None where they are masked
    counts: tuple[tuple[int, str, str, str], ...]  # files, disposition, reason, what to do
    events: tuple[Event, ...]
    files: tuple[FileRow, ...]
    more_files: int
    contracts: tuple[dict[str, Any], ...]
    waits: tuple[tuple[str, str], ...]  # pipeline and run that a study waits for
    revealed: bool


def restrict(found: Found, pipelines: Collection[str]) -> Found:
    """Return what is about these pipelines only."""
    named: dict[str, Any] = {
        field.name: frame.filter(pl.col("pipeline").is_in(list(pipelines)))
        for field in fields(found)
        if isinstance(frame := getattr(found, field.name), pl.DataFrame) and "pipeline" in frame.columns
    }
    with_runs = [frame["run_key"] for frame in named.values() if "run_key" in frame.columns]
    theirs = pl.concat(with_runs).drop_nulls().unique() if with_runs else pl.Series("run_key", [], pl.String)
    others: dict[str, Any] = {
        name: getattr(found, name).filter(pl.col("run_key").is_in(theirs.implode()))
        for name in ("overrides", "contracts", "resolutions")
    }
    return replace(found, **named, **others)


def answer(found: Found, owed: pl.DataFrame, pipelines: Collection[str], *, reveal: bool) -> Answer | None:
    """Return the answer for a person who may read these pipelines; None if nothing of them is known.

    Parameters
    ----------
    found, owed
        What `Lookup.where` and `Attempts.find_owed` return.
    pipelines
        The pipelines.
    reveal
        Whether identifiers are shown; the caller has written that to the decision log.
    """
    mine = restrict(found, pipelines)
    waiting = owed.filter(pl.col("pipeline").is_in(list(pipelines)))
    frames = (mine.arrivals, mine.gates, mine.resources, mine.instances, mine.contracts, waiting)
    if all(frame.is_empty() for frame in frames):
        return None
    files = mine.arrivals.to_dicts()
    counts = _count(files)
    current = [row for row in files if row["superseded_by"] is None]
    headline, grade = _headline(mine, current, waiting)
    about = {*mine.arrivals["pipeline"], *mine.gates["pipeline"], *mine.resources["pipeline"], *waiting["pipeline"]}
    return Answer(
        known_as=found.known_as or ("key",),
        headline=headline,
        grade=grade,
        pipelines=tuple(sorted(filter(None, about))),
        study_keys=tuple(sorted(set(mine.arrivals["study_key"].drop_nulls()))),
        subjects=tuple(_subjects(mine, reveal=reveal)),
        counts=counts,
        events=tuple(sorted(_events(mine, waiting), key=_by_time)),
        files=tuple(_file(row, reveal=reveal) for row in files[:MOST_FILES]),
        more_files=max(0, len(files) - MOST_FILES),
        contracts=tuple(_contracts(mine)),
        waits=tuple(mine.waits_for.select("pipeline", "run_id").rows()),
        revealed=reveal,
    )


def _by_time(event: Event) -> tuple[bool, float]:
    return event.at is None, 0.0 if event.at is None else event.at.timestamp()


def _subjects(found: Found, *, reveal: bool) -> Iterator[str | None]:
    subjects = {*found.arrivals["study_instance_uid"].drop_nulls(), *found.gates["subject"].drop_nulls()} - {""}
    for subject in sorted(subjects):
        yield subject if reveal else None


def _count(files: list[dict[str, Any]]) -> tuple[tuple[int, str, str, str], ...]:
    counted = Counter((_name(row["disposition"]), row["reason"] or "") for row in files if row["superseded_by"] is None)
    return tuple((number, word, code, SENTENCES.get(code, "")) for (word, code), number in counted.most_common())


def _name(disposition: str | None) -> str:
    return "not decided yet" if disposition is None else _IN_WORDS.get(disposition, disposition)


def headline(found: Found, owed: pl.DataFrame) -> str:
    """Return the answer in a sentence or two, of all pipelines."""
    current = found.arrivals.filter(pl.col("superseded_by").is_null())
    return _headline(found, current.to_dicts(), owed)[0]


def _headline(found: Found, files: list[dict[str, Any]], owed: pl.DataFrame) -> tuple[str, Grade]:
    """Return the answer in a sentence or two, with the worst state of what counts."""
    held = found.gates.sort("decided_at").group_by("subject", "datastore_id", maintain_order=True).last()
    held = held.filter(~pl.col("released"))
    if held.height:
        first = held.sort("decided_at").row(0, named=True)
        cause = SENTENCES.get(first["reason"], "")
        text = f"HELD in {first['pipeline']} since {moment(first['decided_at'])}: {first['reason']}. {cause}"
        return text, Grade.ATTENTION
    if owed.height:
        row = owed.row(0, named=True)
        text = f"NOT TAKEN IN yet in {row['pipeline']}: {row['reason']}. {OWED_SENTENCES.get(row['reason'], '')}"
        return text, Grade.ATTENTION
    if found.parked.height and not files:
        return f"PARKED: {plural(found.parked.height, 'reference')} to what is not there yet.", Grade.ATTENTION
    words = Counter(row["disposition"] for row in files)
    grade = max((_GRADES.get(word, Grade.ATTENTION) for word in words), default=Grade.GOOD)
    if found.unrouted.height and grade is Grade.GOOD:
        return f"RELEASED, and {NOT_SENT}.", Grade.ATTENTION
    named = ", ".join(f"{number} {_name(word)}" for word, number in words.most_common())
    sent = found.routes.filter(pl.col("state") == "sent").height
    routed = f" {plural(sent, 'message was', 'messages were')} sent." if sent else ""
    if not words:
        stored = Counter(found.resources["disposition"].drop_nulls())
        states = ", ".join(f"{number} {word}" for word, number in stored.most_common())
        known = f"In the data store: {states}." if states else "Known, without a file of its own."
        return f"{known}{routed}", Grade.GOOD
    state = {Grade.GOOD: "IN ORDER", Grade.ATTENTION: "OPEN", Grade.BAD: "NOT TAKEN IN"}[grade]
    return f"{state}: {named}.{routed}", grade


def _events(found: Found, owed: pl.DataFrame) -> Iterator[Event]:
    yield from _file_events(found)
    for row in found.gates.iter_rows(named=True):
        released = row["gate"] == "release"
        text = "released by the audit" if released else f"held by the audit: {row['reason']}"
        yield Event(
            row["decided_at"], Grade.GOOD if released else Grade.ATTENTION, text, row["pipeline"], row["run_id"]
        )
    for row in found.overrides.iter_rows(named=True):
        text = f"{row['overridden_by']} released the hold {row['held_reason']}: {row['override_reason']}"
        yield Event(row["overridden_at"], Grade.GOOD, text, run_id=row["run_id"])
    for row in found.redrives.iter_rows(named=True):
        text = f"{row['asked_by']} asked for a redrive: {row['why']}"
        yield Event(row["asked_at"], Grade.ATTENTION, text, row["pipeline"], row["run_id"])
    for row in found.resolutions.iter_rows(named=True):
        text = f"non-primary image set {row['image_set_id']}: {row['resolution']} {row['state']}"
        yield Event(row["ended_at"] or row["begun_at"], Grade.ATTENTION, text, run_id=row["run_id"])
    yield from _route_events(found)
    for row in owed.iter_rows(named=True):
        text = f"could not be taken in: {row['reason']}, {plural(row['attempts'], 'attempt')} since"
        yield Event(row["since"], Grade.ATTENTION, text, row["pipeline"])


def _file_events(found: Found) -> Iterator[Event]:
    """Yield when runs claimed files and decided on them, one event for the files that have the same in common."""
    by_run = found.arrivals.group_by("pipeline", "run_id", maintain_order=True)
    for row in by_run.agg(pl.len().alias("files"), pl.col("claimed_at").min()).iter_rows(named=True):
        text = f"{plural(row['files'], 'file')} claimed"
        yield Event(row["claimed_at"], Grade.GOOD, text, row["pipeline"], row["run_id"])
    decided = found.arrivals.filter(pl.col("disposition").is_not_null())
    groups = decided.group_by("pipeline", "run_id", "disposition", "reason", maintain_order=True)
    for row in groups.agg(pl.len().alias("files"), pl.col("settled_at").max()).iter_rows(named=True):
        why = f": {row['reason']}" if row["reason"] else ""
        text = f"{plural(row['files'], 'file')} {_name(row['disposition'])}{why}"
        yield Event(row["settled_at"], _GRADES[row["disposition"]], text, row["pipeline"], row["run_id"])


def _route_events(found: Found) -> Iterator[Event]:
    for row in found.routes.iter_rows(named=True):
        about = f"revision {row['revision']} to {row['destination']}"
        of_run = row["pipeline"], row["run_id"]
        if row["state"] == "sent":
            yield Event(row["sent_at"], Grade.GOOD, f"sent: {about}", *of_run)
        elif row["state"] == "failed":
            yield Event(None, Grade.BAD, f"given up: {about} ({row['last_error']})", *of_run)
        elif row["state"] == "pending":
            yield Event(row["next_attempt_at"], Grade.ATTENTION, f"to be sent: {about}", *of_run)


def _file(row: dict[str, Any], *, reveal: bool) -> FileRow:
    own = {field.name: row[field.name] for field in fields(FileRow) if field.name in row}
    shown = {} if reveal else dict.fromkeys(("key", "sop_instance_uid", "series_instance_uid", "detail"))
    return FileRow(**(own | shown | {"disposition": _name(row["disposition"])}))


def _contracts(found: Found) -> Iterator[dict[str, Any]]:
    """Yield each contract's summary, without attributes of the patient."""
    for row in found.contracts.iter_rows(named=True):
        content = json.loads(row["contract"])
        of_series = (name for item in content.get("series", ()) for name in item["image_set_ids"])
        yield {
            "schema": content["schema"],
            "revision": row["revision"],
            "instances": content.get("NumberOfStudyRelatedInstances"),
            "resources": len(content["resources"]) if "resources" in content else None,
            "completeness": (content.get("completeness") or {}).get("state"),
            "image_sets": sorted(set(of_series)),
        }
