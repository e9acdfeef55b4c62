"""Redrive: select settled arrivals on a person's request, and claim each as an arrival of the next generation.

A request selects by run, study, reason codes, the rows of an edited dispositions.csv, or what the data store has lost.
An arrival must meet all that is given. The run takes each object as it is now under its key.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from airlock.ledger import InstanceState
from airlock.ledger.arrivals import scope
from airlock.ledger.generations import STOPPED, next_generation
from airlock.ledger.redrives import REDRIVABLE, SUCCESSORS, is_current, is_underway
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

LOOKUPS_IN_FLIGHT = 32  # of objects in S3
SHOWN = 5  # lines or runs that an error names
# The import itself raised these: only another import, with a manifest of its own, can clear them.
IMPORT_AGAIN = (
    Reason.PRIMARY_UNKNOWN,
    Reason.VERSION_ABOVE_ONE,
    Reason.JOB_COUNTS_DISAGREE,
    Reason.READ_BACK_MISMATCH,
)


class RedriveRules(Protocol):
    """The part of a selection that each kind of pipeline decides for itself."""

    @property
    def csv_columns(self) -> Sequence[str]:
        """The columns of a dispositions.csv of this kind."""

    @property
    def reasons_in_ledger(self) -> bool:
        """Whether the ledger has every reason of an arrival."""

    def filter_by_reasons(self, run: Run[Pipeline], found: pl.DataFrame, reasons: tuple[str, ...]) -> pl.DataFrame:
        """Return the rows of `CANDIDATES` that have one of the reasons; all rows if no reason is given."""

    def find_companions(self, run: Run[Pipeline], selected: pl.DataFrame) -> pl.DataFrame:
        """Return the current arrivals, as `CANDIDATES`, that are held only because of selected ones."""


def redrive(run: Run[Pipeline], request: RedriveRequest, rules: RedriveRules) -> dict[str, int]:
    """Open a run and claim the requested arrivals for it; a run that has claimed them before changes nothing.

    Parameters
    ----------
    run
        The run that redrives.
    request
        The person's request.
    rules
        Those of the pipeline's kind.

    Returns
    -------
    dict
        Numbers of arrivals: ``chosen``, ``taken`` to be read and imported, ``carried`` on without an import, and
        ``in_already``, whose object another arrival has brought in.

    Raises
    ------
    RedriveError
        If the selection is empty or has an arrival that cannot be redriven.
    LedgerError
        If another redrive was faster, or an open run holds one of the objects.
    """
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)
    before = run.ledger.find_redrive(run.key)
    if before is not None:
        return dict(before["counts"])
    selected = select_arrivals(run, request, rules)
    record = {"asked_by": request.asked_by, "why": request.why, "choice": request.choice}
    successors = _describe_successors(run, selected, request)
    with run.ledger.at_once(scope(run.pipeline.name), keep_first=True) as ledger:  # a person asks for it
        return ledger.redrive(run.pipeline.name, run.key, successors, record) or {}


def select_arrivals(run: Run[Pipeline], request: RedriveRequest, rules: RedriveRules) -> pl.DataFrame:
    """Return the requested arrivals and those that are held only because of them.

    Returns
    -------
    polars.DataFrame
        `ledger.redrives.CANDIDATES`.
    """
    by_run = _find_requested_run(run, request)
    if request.findings:
        selected = run.ledger.choose_lost(run.pipeline.datastore_id, run.pipeline.name, by_run, request.study)
    elif request.csv:
        selected = _find_listed(run, read_csv(_get_csv(run, request.csv), rules.csv_columns), request, by_run, rules)
    else:
        by_reason = request.reasons if rules.reasons_in_ledger else ()
        found = run.ledger.choose_arrivals(
            run.pipeline.datastore_id, run.pipeline.name, by_run, request.study, by_reason, site=request.site
        )
        selected = rules.filter_by_reasons(run, found, request.reasons)
    if selected.is_empty():
        raise RedriveError(
            "No arrival meets the request: the last reconciliations found nothing lost that is not imported again."
            if request.findings
            else "No held, quarantined or failed arrival meets the request. Compare it with the run's dispositions.csv."
        )
    _check_decided(selected)
    _check_image_sets(run, selected, request)
    companions = rules.find_companions(run, selected)
    return pl.concat([selected, companions]).unique("arrival_id", keep="first", maintain_order=True)


def _get_csv(run: Run[Pipeline], address: str) -> bytes:
    try:
        return run.s3.get(S3Uri.parse(address))
    except FileNotFoundError:
        raise RedriveError("redrive_csv: the object does not exist. Upload the edited list first.") from None


def _find_requested_run(run: Run[Pipeline], request: RedriveRequest) -> str | None:
    """Return the key of the run that the request names; None if it names none."""
    if request.run is None:
        return None
    name = run.pipeline.name
    found = run.ledger.run(request.run) or run.ledger.run(run_key(name, request.run))
    if found is None or found.pipeline != name:
        raise RedriveError(
            f"redrive_run is not a run of pipeline {name!r}. Give the run_key or run_id that its report shows."
        )
    if found.run_key == run.key:
        raise RedriveError("redrive_run is this run itself, a cyclic redrive. Name a run that has ended.")
    undecided = run.ledger.count_undecided(name, found.run_key)
    if found.state == "running" or undecided:
        raise RedriveError(
            f"Run {found.run_key!r} has not ended: {undecided} arrivals are undecided. Clear its failed task, and "
            f"redrive when the run has ended."
        )
    return found.run_key


def _check_decided(selected: pl.DataFrame) -> None:
    """Refuse arrivals that an open run or another redrive is still deciding on."""
    underway = selected.filter(is_underway())
    if underway.height:
        raise RedriveError(
            f"{underway.height} of the selected arrivals are being redriven by {_name_runs(underway['redriven_by'])}, "
            f"a cyclic redrive. Wait until it has ended."
        )
    running = selected.filter(pl.col("run_state") == "running")
    if running.height:
        raise RedriveError(
            f"{running.height} of the selected arrivals belong to {_name_runs(running['run_key'])}, which has not "
            f"ended. Wait until it has."
        )


def _name_runs(keys: pl.Series) -> str:
    return ", ".join(f"run {key!r}" for key in keys.unique().sort()[:SHOWN])


def _check_image_sets(run: Run[Pipeline], selected: pl.DataFrame, request: RedriveRequest) -> None:
    """Refuse non-primary image sets that the request does not resolve or selects only a part of."""
    odd = selected.filter(pl.col("state") == InstanceState.NON_PRIMARY)
    if odd.is_empty() and request.non_primary:
        raise RedriveError(
            "redrive_non_primary: none of the selected arrivals is in a non-primary image set. Leave the param out."
        )
    if odd.height and request.non_primary is None:
        raise RedriveError(
            f"{odd.height} of the selected arrivals are in non-primary image sets. Set redrive_non_primary to promote "
            f"or delete, or leave these arrivals out."
        )
    missing = run.ledger.count_unselected(run.pipeline.datastore_id, odd["image_set_id"], odd["arrival_id"])
    if missing:
        raise RedriveError(
            f"The non-primary image sets hold {missing} instances whose arrivals are not selected. Select the whole "
            f"study, or keep the rows of these arrivals too."
        )


def _describe_successors(run: Run[Pipeline], selected: pl.DataFrame, request: RedriveRequest) -> pl.DataFrame:
    """Describe the successor of each selected arrival: the object under its key as it is now.

    An instance in the data store is carried on without an import, unless its object was replaced or only another import
    can clear its reason. An object that is gone keeps its description; parse reports that it is gone.

    Returns
    -------
    polars.DataFrame
        `ledger.redrives.SUCCESSORS`.
    """
    rows = selected.to_dicts()
    with ThreadPoolExecutor(LOOKUPS_IN_FLIGHT) as pool:
        objects = list(pool.map(lambda row: _find_object(run, row, request), rows))
    settled = _find_settled(run, [row["arrival_id"] for row in objects])
    successors = [_describe_successor(row, now, settled) for row, now in zip(rows, objects, strict=True)]
    return pl.DataFrame(successors, schema=SUCCESSORS)


def _find_object(run: Run[Pipeline], row: dict[str, Any], request: RedriveRequest) -> dict[str, Any]:
    """Return the description of the object under an arrival's key; the arrival's own if it is unchanged or gone."""
    own = {name: row[name] for name in ARRIVALS}
    if row["state"] == InstanceState.NON_PRIMARY and request.non_primary:
        return own  # the request is about the instance in the data store
    found = run.s3.find(S3Uri(row["bucket"], row["key"]))
    if found is None or (found["etag"], found["size"]) == (row["etag"], row["size"]):
        return own
    version = found["version_id"] if row["version_id"] else None  # a listing names none
    name = arrival_id(row["bucket"], row["key"], version, found["etag"], found["size"])
    return own | found | {"version_id": version, "arrival_id": name}


def _find_settled(run: Run[Pipeline], ids: list[str]) -> set[str]:
    """Return the ids of objects already settled by a current arrival of any generation."""
    found: set[str] = set()
    generations = {name: name for name in ids}  # each object's id, and that of the generation to look up
    while generations:
        names = pl.Series(list(generations.values()), dtype=pl.String)
        arrivals = run.ledger.find_arrivals(run.pipeline.datastore_id, run.pipeline.name, names)
        came_in = arrivals.filter(pl.col("disposition").is_not_null() & ~pl.col("disposition").is_in(STOPPED))
        known, settled = set(arrivals["arrival_id"]), set(came_in.filter(is_current())["arrival_id"])
        found |= {name for name, generation in generations.items() if generation in settled}
        generations = {
            name: next_generation(generation)
            for name, generation in generations.items()
            if generation in known - settled
        }
    return found


def _describe_successor(row: dict[str, Any], now: dict[str, Any], settled: set[str]) -> dict[str, Any]:
    own = {name: row[name] for name in ARRIVALS}
    facts = {"chosen_id": row["arrival_id"], "generation": row["generation"] + 1}
    in_store = row["disposition"] == Disposition.HELD and row["state"] is not None
    replaced = now["arrival_id"] != row["arrival_id"] and now["arrival_id"] not in settled
    if in_store and not replaced and (row["reason"] not in IMPORT_AGAIN or now["arrival_id"] != row["arrival_id"]):
        return own | facts | {"carries": row["arrival_id"], "arrival_id": next_generation(row["arrival_id"])}
    return now | facts | {"carries": None}


def _find_listed(
    run: Run[Pipeline], rows: list[ListedRow], request: RedriveRequest, by_run: str | None, rules: RedriveRules
) -> pl.DataFrame:
    """Return the arrivals of the listed rows, as `CANDIDATES`; refuse the list if a row cannot be redriven."""
    ids = pl.Series([row.arrival_id for row in rows], dtype=pl.String)
    found = run.ledger.find_arrivals(run.pipeline.datastore_id, run.pipeline.name, ids)
    fits = rules.filter_by_reasons(run, found, request.reasons)["arrival_id"].implode()
    facts = {"current": is_current() | is_underway(), "fits": pl.col("arrival_id").is_in(fits)}
    known = {row["arrival_id"]: row for row in found.with_columns(**facts).to_dicts()}
    wrong = [
        (row.line, fault) for row in rows if (fault := _find_fault(row, known.get(row.arrival_id), request, by_run))
    ]
    if wrong:
        shown = "; ".join(f"line {line}: {fault}" for line, fault in wrong[:SHOWN])
        more = f"; and {len(wrong) - SHOWN} more lines" if len(wrong) > SHOWN else ""
        raise RedriveError(f"redrive_csv, {shown}{more}. Remove these rows. Nothing was redriven.")
    return found


def _find_fault(
    row: ListedRow, known: dict[str, Any] | None, request: RedriveRequest, by_run: str | None
) -> str | None:
    """Return why a row cannot be redriven, without its values; None if it can."""
    if known is None:
        return "not an arrival of this pipeline"
    faults = {
        "its key is not that of the arrival": row.key not in {None, known["key"]}
        and row.key != harmless_text(known["key"]),
        "its run has not decided on it": known["disposition"] is None,
        f"it is {known['disposition']}, and only {', '.join(REDRIVABLE)} can be redriven": known["disposition"]
        not in {None, *(word.value for word in REDRIVABLE)},
        "it was redriven before, and a later generation has replaced it": not known["current"],
        "it belongs to another run than redrive_run": by_run is not None and known["run_key"] != by_run,
        "it belongs to another study than redrive_study": request.study is not None
        and known["study_key"] != request.study,
        "its reason is not one of redrive_reasons": not known["fits"],
    }
    return next((fault for fault, applies in faults.items() if applies), None)
