"""``airlock where``: everything that the ledger knows about a study, an instance, an object or a FHIR resource."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger.runs import EXPECTED, parse_wave
from airlock.reasons import OWED_SENTENCES, RELEASED, SENTENCES, Reason
from airlock.records import Disposition
from airlock.stages.pages.answer import headline
from airlock_cli.errors import WrongError
from airlock_cli.ledgers import open_ledger
from airlock_cli.show import Table, format_cell, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.ledger import Found, Ledger

SCHEMA = "airlock.where/1"
SHOWN = 50  # rows of a table; --json has all
_OF_A_PATIENT = "This is a Patient for whom studies are published, see below."
_TO_TRY_AGAIN = frozenset({"held", "quarantined", "failed"})
_LOOKED_FOR = (
    "a StudyInstanceUID or study_key, another subject_key, a SOPInstanceUID, an object's key (with or without "
    "s3://bucket/), an arrival_id, and a FHIR resource as Type/id"
)


def find(text: str, datastore_id: str | None = None) -> dict[str, Any]:
    """Return everything that the ledger knows about a UID, a key or an id, schema `SCHEMA`.

    Parameters
    ----------
    text
        The UID, key or id.
    datastore_id
        The data store that is meant, if the text is a name that each has its own of.

    Raises
    ------
    WrongError
        If the ledger knows nothing about it.
    """
    with open_ledger() as ledger:
        found = ledger.where(text, datastore_id)
        owed = ledger.find_owed(text)
        studies = ledger.studies_of_patients(pl.Series([text])) if text.startswith("Patient/") else None
        waits = [_describe_wait(ledger, row) for row in _rows(found.waits_for)]
    if not found.known_as and owed.is_empty() and (studies is None or studies.is_empty()):
        raise WrongError(
            f"The ledger knows nothing of {text}. It was looked up as {_LOOKED_FOR}. An object that no run listed is "
            "unknown; an object that no run read is known by its key only."
        )
    return {
        "schema": SCHEMA,
        "asked": text,
        "headline": headline(found, owed) if found.known_as or owed.height else _OF_A_PATIENT,
        "known_as": list(found.known_as) or ["key" if studies is None else "patient"],
        "arrivals": [_with_sentence(row) for row in _rows(found.arrivals)],
        "instances": _rows(found.instances),
        "gates": [_with_sentence(row) for row in _rows(found.gates)],
        "waits_for": waits,
        "overrides": _rows(found.overrides),
        "contracts": list(_contracts(found)),
        "routes": _rows(found.routes),
        "unrouted": _rows(found.unrouted),
        "redrives": _rows(found.redrives),
        "resolutions": _rows(found.resolutions),
        "resources": _rows(found.resources),
        "parked": _describe_parked(found.parked),
        "studies": [] if studies is None else _rows(studies),
        "owed": [row | {"what_to_do": OWED_SENTENCES.get(row["reason"])} for row in _rows(owed)],
    }


def _describe_parked(found: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the parked resources, each with what it waits for; one that is due waits for nothing any more."""
    reason = str(Reason.WAITING_FOR_RESOURCE)
    by = [name for name in found.columns if name not in {"waits_for_type", "waits_for_id", "due"}]
    target = pl.format("{}/{}", "waits_for_type", "waits_for_id")
    rows = found.group_by(by, maintain_order=True).agg(waits_for=target, is_due=(pl.col("due") == 1).any())
    about = {"disposition": Disposition.PARKED.value, "reason": reason, "what_to_do": SENTENCES[reason]}
    return [row | about for row in rows.to_dicts()]


def _rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dicts()


def _with_sentence(row: dict[str, Any]) -> dict[str, Any]:
    text = RELEASED if _is_released(row) else SENTENCES.get(row["reason"])
    return row | {"what_to_do": text if row["reason"] else None}


def _is_released(row: dict[str, Any]) -> bool:
    """Return whether an arrival or a gate was released all the same, as after an approval."""
    return row.get("disposition") == Disposition.RELEASED or row.get("released") is True


def _describe_wait(ledger: Ledger, row: dict[str, Any]) -> dict[str, Any]:
    """Return a run that a study waits for, with what to do if it does not go on."""
    release = f"airlock ledger release {row['pipeline']} {row['run_id']}"
    if row["state"] != EXPECTED:
        text = f"If the run has failed, clear its failed task. If it will never go on: {release}"
        return row | {"what_to_do": text}
    last = ledger.last_claimed_wave(row["pipeline"], parse_wave(row["run_id"])[0])
    return row | {
        "what_to_do": f"This wave has not begun. The last of its delivery that has claimed is run {last}: let it go "
        f"on, or clear its task next_wave if that has failed. To wait no longer: {release}"
    }


def _contracts(found: Found) -> Iterator[dict[str, Any]]:
    """Yield each contract's summary, without attributes of the patient."""
    for row in _rows(found.contracts):
        content = json.loads(row.pop("contract"))
        of_series = (name for item in content.get("series", ()) for name in item["image_set_ids"])
        yield row | {
            "schema": content["schema"],
            "instances": content.get("NumberOfStudyRelatedInstances"),
            "resources": len(content["resources"]) if "resources" in content else None,
            "image_set_ids": sorted(set(of_series)),
            "fhir": content.get("fhir"),
            "patient_match": content.get("patient_match"),
        }


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a result of `find`."""
    yield Table(found["headline"], ("", ""), list(_list_ways_on(found)))
    yield _disposition_counts(found["arrivals"])
    yield _table(
        "arrivals",
        found["arrivals"],
        (
            "disposition",
            "reason",
            "stage",
            "detail",
            "what_to_do",
            "generation",
            "pipeline",
            "run_id",
            "settled_at",
            "size",
            "key",
        ),
    )
    yield _table(
        "UIDs of the arrivals",
        [row for row in found["arrivals"] if row["study_instance_uid"] or row["sop_instance_uid"]],
        ("arrival_id", "superseded_by", "study_key", "study_instance_uid", "series_instance_uid", "sop_instance_uid"),
    )
    yield _table(
        "instances in the data store",
        found["instances"],
        ("SOPInstanceUID", "state", "image_set_id", "image_set_version", "datastore_id", "arrival_id"),
    )
    yield _table(
        "gates",
        found["gates"],
        ("subject", "gate", "released", "reason", "what_to_do", "decided_at", "pipeline", "run_id"),
    )
    yield _table(
        "runs that have not settled, or not yet read, files of the study",
        found["waits_for"],
        ("study_key", "state", "what_to_do", "pipeline", "run_id"),
    )
    yield _table(
        "overrides",
        found["overrides"],
        ("subject", "held_reason", "overridden_by", "override_reason", "overridden_at", "run_id"),
    )
    yield _table(
        "contracts", found["contracts"], ("subject", "revision", "instances", "resources", "image_set_ids", "run_id")
    )
    yield Table(
        "FHIR references, valid once the study is published",
        ("resource", "data store"),
        list(_references(found["contracts"])),
    )
    yield Table("patient", ("study", "outcome", "found by", "question"), list(_patient_matches(found["contracts"])))
    yield _table(
        "studies of the patient",
        found["studies"],
        ("study_key", "revision", "is_released", "outcome", "pipeline", "datastore_id", "healthlake"),
    )
    yield _table(
        "routes",
        found["routes"],
        ("destination", "revision", "state", "attempts", "sent_at", "next_attempt_at", "last_error"),
    )
    yield _table(
        "released, not at a destination: no route's rule matches (routes: 0), or the task route has not run since",
        found["unrouted"],
        ("pipeline", "revision", "routes", "released_at", "run_id"),
    )
    yield _table(
        "tried again by later runs",
        found["owed"],
        ("reason", "what_to_do", "since", "attempts", "next_attempt_at", "pipeline", "key"),
    )
    yield _table("redrives", found["redrives"], ("asked_at", "asked_by", "why", "pipeline", "run_id"))
    yield _table(
        "non-primary image sets resolved",
        found["resolutions"],
        ("image_set_id", "resolution", "state", "promoted_id", "ended_at", "datastore_id", "run_id"),
    )
    yield _table(
        "FHIR resources",
        found["resources"],
        (
            *("resource_type", "resource_id", "disposition", "datastore_id"),
            *("pipeline", "run_key", "batch_id", "claimed_by"),
        ),
    )
    yield _table(
        "parked: FHIR resources that wait for others",
        found["parked"],
        ("resource_type", "resource_id", "waits_for", "is_due", "parked_at", "parked_until", "what_to_do", "pipeline"),
    )


def _list_ways_on(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield how the thing was found and, of a study that is not released, the command that tries it again."""
    yield "found as", f"{format_cell(found['known_as'])} {found['asked']}"
    open_ones = (row for row in found["arrivals"] if row["study_key"] and row["disposition"] in _TO_TRY_AGAIN)
    row = next(open_ones, None)
    if row is not None:
        study = f"airlock redrive {row['pipeline']} --study {row['study_key']}"
        yield "to try it again as it is", f"{study} --why '...' --dry-run"


def _patient_matches(contracts: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for contract in contracts:
        match = contract["patient_match"]
        if match:
            yield contract["subject_key"], match["outcome"], match["means"], match["question"]


def _disposition_counts(arrivals: list[dict[str, Any]]) -> Table:
    """Return the arrivals counted by disposition and reason; without rows if all have the same."""
    counted = Counter((row["disposition"] or "claimed", row["reason"], row["what_to_do"]) for row in arrivals)
    rows = [(number, *key) for key, number in counted.most_common()]
    return Table(
        "arrivals by disposition", ("arrivals", "disposition", "reason", "what_to_do"), rows if rows[1:] else []
    )


def _table(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> Table:
    """Return rows as a table without the columns that are empty in all rows."""
    used = [name for name in columns if any(row[name] is not None and row[name] not in ("", []) for row in rows)]
    more = f" ({SHOWN} of {len(rows)}; --json has all)" if len(rows) > SHOWN else ""
    return Table(title + more, used, [[_format_value(name, row[name]) for name in used] for row in rows[:SHOWN]])


def _format_value(name: str, value: Any) -> Any:
    return format_size(value) if name == "size" and value is not None else value


def _references(contracts: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for contract in contracts:
        fhir = contract["fhir"] or {}
        for name in ("Patient", "ImagingStudy", "Endpoint", "ServiceRequest"):
            named = fhir.get(name) or ()
            for reference in [named] if isinstance(named, str) else named:
                yield reference, fhir["datastore_id"]
