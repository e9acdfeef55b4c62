"""Redrive: what a person wants to take through again, chosen, and claimed as new generations.

The choice is by run, by study, by reason codes, or by the rows that were kept of a dispositions.csv; what is given
together must all hold. The objects are taken as they are now under their keys.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from airlock.ledger import InstanceState
from airlock.ledger.arrivals import next_generation
from airlock.ledger.redrives import REDRIVABLE, STOPPED, SUCCESSORS, is_current, is_underway
from airlock.reasons import Reason
from airlock.records import ARRIVALS, Disposition, arrival_id
from airlock.run import run_key
from airlock.stages.redrive_list import read_csv
from airlock.stages.redrive_request import RedriveError
from airlock.stages.reporting import harmless_text
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.pipelines import Pipeline
    from airlock.run import RedriveRequest, Run
    from airlock.stages.redrive_list import ListedRow

AT_A_TIME = 32  # objects that are looked up
TOLD = 5  # lines that an error names
# Held for what happened at the import itself: only another import, with a manifest of its own, can clear them.
IMPORT_AGAIN = (Reason.VERSION_ABOVE_ONE, Reason.JOB_COUNTS_DISAGREE, Reason.READ_BACK_MISMATCH)


class RedriveRules(Protocol):
    """What a redrive chooses and takes along, which each kind of pipeline says for itself."""

    @property
    def csv_columns(self) -> Sequence[str]:
        """The columns of a dispositions.csv."""

    @property
    def one_reason_each(self) -> bool:
        """Whether the reason in the ledger is the only one that an arrival can be chosen by."""

    def with_reasons(self, run: Run[Pipeline], found: pl.DataFrame, reasons: tuple[str, ...]) -> pl.DataFrame:
        """Return those of the arrivals, `CANDIDATES`, that have one of the reasons; all where none are given."""

    def companions(self, run: Run[Pipeline], chosen: pl.DataFrame) -> pl.DataFrame:
        """Return the current arrivals, as `CANDIDATES`, that are held only for the sake of chosen ones."""


def redrive(run: Run[Pipeline], asked: RedriveRequest, rules: RedriveRules) -> dict[str, int]:
    """Claim what a person chose, as new generations; a run that has done so before does nothing.

    Parameters
    ----------
    run
        The run, which is opened in the ledger; buffer freezes what it claims.
    asked
        What the person chose.
    rules
        Of the pipeline's kind.

    Returns
    -------
    dict
        How many arrivals were ``chosen``, ``taken`` to be read and imported, ``carried`` on without an import, and
        were ``in_already``, since another arrival brought their object meanwhile.

    Raises
    ------
    RedriveError
        If the choice is empty or holds what cannot be redriven.
    LedgerError
        If another redrive was faster, or an open run holds one of the objects.
    """
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)
    before = run.ledger.redrive_of(run.key)
    if before is not None:
        return dict(before["counts"])
    chosen = choose(run, asked, rules)
    record = {"asked_by": asked.asked_by, "why": asked.why, "choice": asked.choice}
    return run.ledger.redrive(run.pipeline.name, run.key, successors(run, chosen, asked), record) or {}


def choose(run: Run[Pipeline], asked: RedriveRequest, rules: RedriveRules) -> pl.DataFrame:
    """Return the chosen arrivals, and those that are held for nothing but the same studies' or patients' sake.

    Returns
    -------
    polars.DataFrame
        `ledger.redrives.CANDIDATES`.
    """
    by_run = _chosen_run(run, asked)
    datastore, pipeline = run.pipeline.datastore_id, run.pipeline.name
    if asked.csv:
        chosen = _listed(run, read_csv(_body(run, asked.csv), rules.csv_columns), asked, by_run, rules)
    else:
        by_reason = asked.reasons if rules.one_reason_each else ()
        found = run.ledger.choose_arrivals(datastore, pipeline, by_run, asked.study, by_reason)
        chosen = rules.with_reasons(run, found, asked.reasons)
    if chosen.is_empty():
        raise RedriveError("no held, quarantined or failed arrival fits the choice: look at the run's dispositions.csv")
    _need_ended(chosen)
    _need_resolved(run, chosen, asked)
    return pl.concat([chosen, rules.companions(run, chosen)]).unique("arrival_id", keep="first", maintain_order=True)


def _body(run: Run[Pipeline], address: str) -> bytes:
    try:
        return run.s3.get(S3Uri.parse(address))
    except FileNotFoundError:
        raise RedriveError("redrive_csv: there is no such object: put the edited list there first") from None


def _chosen_run(run: Run[Pipeline], asked: RedriveRequest) -> str | None:
    if asked.run is None:
        return None
    name = run.pipeline.name
    found = run.ledger.run(asked.run) or run.ledger.run(run_key(name, asked.run))
    if found is None or found.pipeline != name:
        raise RedriveError(f"redrive_run is no run of pipeline {name!r}: give its run_key or run_id, as in its report")
    if found.run_key == run.key:
        raise RedriveError("redrive_run is this run itself, a cyclic redrive: choose a run that has ended")
    waiting = run.ledger.unsettled(name, found.run_key)
    if found.state == "running" or waiting:
        raise RedriveError(
            f"run {found.run_key!r} has {waiting} arrivals on which it has not decided: clear its failed task, "
            f"and redrive when it has ended"
        )
    return found.run_key


def _need_ended(chosen: pl.DataFrame) -> None:
    """Refuse what an open run, or another redrive, is still deciding on."""
    underway = chosen.filter(is_underway())
    if underway.height:
        raise RedriveError(
            f"{underway.height} of these arrivals are being redriven by {_runs(underway['redriven_by'])}, "
            f"a cyclic redrive: wait until that has ended"
        )
    running = chosen.filter(pl.col("run_state") == "running")
    if running.height:
        raise RedriveError(f"{running.height} of these arrivals are held by {_runs(running['run_key'])}: let it end")


def _runs(keys: pl.Series) -> str:
    return ", ".join(f"run {key!r}" for key in keys.unique().sort()[:TOLD])


def _need_resolved(run: Run[Pipeline], chosen: pl.DataFrame, asked: RedriveRequest) -> None:
    """Refuse non-primary image sets without a word on them, and such as the choice names only in part."""
    odd = chosen.filter(pl.col("state") == InstanceState.NON_PRIMARY)
    if odd.is_empty() and asked.non_primary:
        raise RedriveError(
            "redrive_non_primary: none of the chosen arrivals is in a non-primary image set: leave it out"
        )
    if odd.height and asked.non_primary is None:
        raise RedriveError(
            f"{odd.height} of the chosen arrivals are in non-primary image sets: say promote or delete in "
            f"redrive_non_primary, or leave them out"
        )
    left = run.ledger.left_behind(run.pipeline.datastore_id, odd["image_set_id"], odd["arrival_id"])
    if left:
        raise RedriveError(
            f"the non-primary image sets hold {left} instances of arrivals that were not chosen: choose by the study, "
            f"or keep their rows too"
        )


def successors(run: Run[Pipeline], chosen: pl.DataFrame, asked: RedriveRequest) -> pl.DataFrame:
    """Say what is to come in the place of each chosen arrival: the object under its key as it is now.

    What is in the data store is carried on without an import, unless its object was replaced, or only another import
    can clear it. An object that is gone keeps its description; parse finds that it is gone.

    Returns
    -------
    polars.DataFrame
        `ledger.redrives.SUCCESSORS`.
    """
    rows = chosen.to_dicts()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = list(pool.map(lambda row: _now(run, row, asked), rows))
    came_in = _came_in(run, [row["arrival_id"] for row in found])
    made = [_successor(row, now, came_in) for row, now in zip(rows, found, strict=True)]
    return pl.DataFrame(made, schema=SUCCESSORS)


def _now(run: Run[Pipeline], row: dict[str, Any], asked: RedriveRequest) -> dict[str, Any]:
    """Return the description of what lies under an arrival's key; its own where that is the same, or nothing."""
    own = {name: row[name] for name in ARRIVALS}
    if row["state"] == InstanceState.NON_PRIMARY and asked.non_primary:
        return own  # it is about what is in the data store
    there = run.s3.find(S3Uri(row["bucket"], row["key"]))
    if there is None or (there["etag"], there["size"]) == (row["etag"], row["size"]):
        return own
    version = there["version_id"] if row["version_id"] else None  # a listing names none
    name = arrival_id(row["bucket"], row["key"], version, there["etag"], there["size"])
    return own | there | {"version_id": version, "arrival_id": name}


def _came_in(run: Run[Pipeline], ids: list[str]) -> set[str]:
    """Return those of the objects that a current arrival has brought in, of whatever generation, or that need not."""
    came_in: set[str] = set()
    looked_for = {name: name for name in ids}  # each object's id, and its generation's
    while looked_for:
        names = pl.Series(list(looked_for.values()), dtype=pl.String)
        known = run.ledger.find_arrivals(run.pipeline.datastore_id, run.pipeline.name, names)
        settled = known.filter(pl.col("disposition").is_not_null() & ~pl.col("disposition").is_in(STOPPED))
        there, found = set(known["arrival_id"]), set(settled.filter(is_current())["arrival_id"])
        came_in |= {name for name, one in looked_for.items() if one in found}
        looked_for = {name: next_generation(one) for name, one in looked_for.items() if one in there - found}
    return came_in


def _successor(row: dict[str, Any], now: dict[str, Any], came_in: set[str]) -> dict[str, Any]:
    own = {name: row[name] for name in ARRIVALS}
    facts = {"chosen_id": row["arrival_id"], "generation": row["generation"] + 1}
    in_store = row["disposition"] == Disposition.HELD and row["state"] is not None
    replaced = now["arrival_id"] != row["arrival_id"] and now["arrival_id"] not in came_in
    if in_store and not replaced and (row["reason"] not in IMPORT_AGAIN or now["arrival_id"] != row["arrival_id"]):
        return own | facts | {"carries": row["arrival_id"], "arrival_id": next_generation(row["arrival_id"])}
    return now | facts | {"carries": None}


def _listed(
    run: Run[Pipeline], rows: list[ListedRow], asked: RedriveRequest, by_run: str | None, rules: RedriveRules
) -> pl.DataFrame:
    """Return the arrivals of the rows, each of which must be one that can be chosen."""
    ids = pl.Series([row.arrival_id for row in rows], dtype=pl.String)
    found = run.ledger.find_arrivals(run.pipeline.datastore_id, run.pipeline.name, ids)
    fits = rules.with_reasons(run, found, asked.reasons)["arrival_id"].implode()
    facts = {"current": is_current() | is_underway(), "fits": pl.col("arrival_id").is_in(fits)}
    known = {row["arrival_id"]: row for row in found.with_columns(**facts).to_dicts()}
    wrong = [(row.line, fault) for row in rows if (fault := _fault(row, known.get(row.arrival_id), asked, by_run))]
    if wrong:
        told = "; ".join(f"line {line}: {fault}" for line, fault in wrong[:TOLD])
        more = f"; and {len(wrong) - TOLD} lines more" if len(wrong) > TOLD else ""
        raise RedriveError(f"redrive_csv, {told}{more}: remove these rows, nothing was redriven")
    return found


def _fault(row: ListedRow, there: dict[str, Any] | None, asked: RedriveRequest, by_run: str | None) -> str | None:
    """Say why a row cannot be redriven, without its values."""
    if there is None:
        return "no arrival of this pipeline"
    faults = {
        "its key is not that of the arrival": row.key not in {None, there["key"]}
        and row.key != harmless_text(there["key"]),
        "its run has not decided on it": there["disposition"] is None,
        f"it is {there['disposition']}, and only {', '.join(REDRIVABLE)} can be redriven": there["disposition"]
        not in {None, *(word.value for word in REDRIVABLE)},
        "it was redriven before, a later generation stands in its place": not there["current"],
        "it is of another run than redrive_run": by_run is not None and there["run_key"] != by_run,
        "it is of another study than redrive_study": asked.study is not None and there["study_key"] != asked.study,
        "its reason is none of redrive_reasons": not there["fits"],
    }
    return next((fault for fault, is_so in faults.items() if is_so), None)
