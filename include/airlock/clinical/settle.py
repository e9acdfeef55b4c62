"""Settle: write the decisions on a clinical run to the ledger in one transaction.

The word on a file depends on all patients in it, so a run settles as a whole: gates, resources, contracts, releases and
words. Contracts and payloads are made before, from the ledger as it will then be. Under the locks the ledger is asked
again. If another run has changed what the decisions depend on, audit decides anew; if only what contracts say of
missing resources has changed, the contracts are made anew.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical import gate
from airlock.clinical.contracts import ClinicalContract, complete, draft, renew
from airlock.clinical.open_resources import find_doubts, find_held, find_outdated, has_order, has_superseded, note_open
from airlock.clinical.parked import name_sources, remove_bodies
from airlock.ledger import arrivals, contracts, gates, open_resources, reviews
from airlock.ledger.columns import OpenState
from airlock.ledger.open_resources import FOUND_OPEN
from airlock.reasons import Reason
from airlock.records import CONTRACTS, Disposition, Outcome
from airlock.stages.auditing import is_open
from airlock.stages.contracts import ContractOverride
from airlock.stages.releases import remove_unreleased_payloads, write_payloads
from airlock.stages.review import ask
from airlock.storage.spool import FrameFile, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airlock.clinical.parked import ParkedUnits
    from airlock.ledger import Ledger
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from airlock.stages.auditing import Addition
    from airlock.storage.spool import Spool

_RESOURCE = ["resource_type", "resource_id"]
_SCOPES = (gates.scope, contracts.scope, open_resources.scope, reviews.scope)
_STOPPED = [OpenState.REFUSED.value, OpenState.STOPPED.value]


class ChangedError(RuntimeError):
    """Another run has changed what the decisions depend on: nothing was written."""


class _OutdatedError(RuntimeError):
    """The ledger will say something else than the contracts were made from: nothing was written."""


@dataclass(frozen=True)
class Decided:
    """The decisions on a run."""

    sent: Spool  # by subject: the resources that were sent, with the disposition and reason (``word``) of each
    missed: Spool  # by patient: what the run has not brought, `ledger.open_resources.OPEN`
    gates: Spool
    files: Iterable[pl.DataFrame]  # `records.DISPOSITIONS` of the files, with ``is_open``
    doubts: FrameFile  # `gate.DOUBTS` by which patients were decided, a frame per partition of ``sent``
    overrides: Mapping[str, Mapping[str, Any]]  # by subject key
    parked: ParkedUnits
    asked: pl.DataFrame | None = None  # `ledger.reviews.ASKED`; None if the settling asks nobody
    more: Addition | None = None


@dataclass(frozen=True)
class _Facts:
    """What the ledger says, once the resources are recorded, of the subjects of one partition."""

    known: pl.DataFrame  # the latest contracts
    later: pl.DataFrame  # released resources that later runs have imported: the contracts of those name them
    missing: pl.DataFrame  # `FOUND_OPEN`

    def select_used(self) -> list[pl.DataFrame]:
        """Return what contracts are made from, in a fixed order."""
        stopped = pl.col("state").is_in(_STOPPED).alias("stopped")
        parked = (pl.col("reason") == Reason.WAITING_FOR_RESOURCE).fill_null(value=False).alias("parked")
        counted = self.missing.select("patient", *_RESOURCE, stopped, parked)
        used = self.known.select("subject", "revision", "content_digest"), self.later, counted
        return [frame.unique().sort(pl.all()) for frame in used]

    def equals(self, other: _Facts) -> bool:
        """Return whether the contracts made from both are the same."""
        return all(own.equals(one) for own, one in zip(self.select_used(), other.select_used(), strict=True))


class _FactsFile(FrameFile):
    """Facts on the local disk, partition by partition."""

    def add_facts(self, facts: _Facts) -> None:
        """Store the facts of the next partition."""
        for frame in (facts.known, facts.later, facts.missing):
            self.add(frame)

    def read_facts(self, number: int) -> _Facts:
        """Return the facts of a partition."""
        return _Facts(*(self.read(3 * number + place) for place in range(3)))


def settle(run: Run[ClinicalPipeline], decided: Decided) -> None:
    """Write the decisions on a run to the ledger at once, and the dataset ``contracts``.

    Raises
    ------
    ChangedError
        If another run has changed what the decisions depend on. Nothing is written.
    """
    with ExitStack() as stack:
        facts = stack.enter_context(_FactsFile())
        parts = zip_partitions(decided.sent, decided.missed)
        for held, (sent, missed) in zip(_find_held(decided), parts, strict=True):
            facts.add_facts(_foresee(run, sent, missed, held))
        while True:
            contracts, found = stack.enter_context(FrameFile()), stack.enter_context(_FactsFile())
            try:
                _settle_with(run, decided, facts, contracts, found)
            except _OutdatedError:
                facts = found
                continue
            break
        with run.workspace.writer("contracts", CONTRACTS, part_rows=None) as writer:
            for rows in contracts:
                writer.add(rows)
                writer.end_part()  # contracts are few, and long
    remove_unreleased_payloads(run)
    remove_bodies(run, decided.parked.taken)


def record_held(run: Run[ClinicalPipeline], held: Iterable[pl.DataFrame]) -> None:
    """Record the gates of a run whose books do not balance: all is held, and the run keeps its claims."""
    scope = gates.scope(run.pipeline.datastore_id)
    with run.workspace.writer("contracts", CONTRACTS), run.ledger.at_once(scope) as ledger:
        _record_gates(run, ledger, held)


def _record_gates(run: Run[ClinicalPipeline], ledger: Ledger, decided: Iterable[pl.DataFrame]) -> None:
    for rows in decided:
        ledger.record_gates(run.pipeline.datastore_id, run.key, rows)


def _settle_with(
    run: Run[ClinicalPipeline], decided: Decided, facts: _FactsFile, contracts: FrameFile, found: _FactsFile
) -> None:
    """Make the contracts from these facts and settle; add them, and the facts found under the locks, to the files.

    Raises
    ------
    _OutdatedError, ChangedError
        If the facts, or what the decisions depend on, are others under the locks.
    """
    with FrameFile() as messages:
        for number in range(decided.sent.partitions):
            sent = decided.sent.partition(number)
            completed = _complete_contracts(run, sent, facts.read_facts(number), decided)
            contracts.add(completed)
            messages.add(write_payloads(run, completed))
        name, store = run.pipeline.name, run.pipeline.datastore_id
        scopes = [scope(store) for scope in _SCOPES] + list(decided.more.scopes if decided.more else ())
        with run.ledger.at_once(arrivals.scope(name), *scopes, keep_first=True) as ledger:
            _need_unchanged(run, ledger, decided)
            _record_resources(run, ledger, decided)
            _need_foreseen(run, ledger, decided, facts, found)
            _record_gates(run, ledger, decided.gates)
            if decided.asked is not None:
                ask(run, ledger, decided.asked)
            for completed, released in zip(contracts, messages, strict=True):
                ledger.revise_contracts(store, run.key, completed["subject"], _return(completed))
                ledger.record_releases(name, run.key, store, released)
            parked = decided.parked.find_settled(decided.files)
            ledger.settle_parked(store, name, run.key, parked.rows(), read=parked.read, unread=parked.unread)
            ledger.settle(name, run.key, (rows.filter(~pl.col("is_open")) for rows in decided.files))
            if not parked.origins.is_empty():
                ledger.settle_origins(name, run.key, parked.origins)


def _return(contracts: pl.DataFrame) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda _: contracts


def _need_unchanged(run: Run[ClinicalPipeline], ledger: Ledger, decided: Decided) -> None:
    for number, doubts in enumerate(decided.doubts):
        patients = decided.sent.partition(number)["patient"].drop_nulls()
        if not find_doubts(run, ledger, patients).equals(doubts):
            raise ChangedError
    if any(has_superseded(run, ledger, missed) for missed in decided.missed):
        raise ChangedError


def _need_foreseen(
    run: Run[ClinicalPipeline], ledger: Ledger, decided: Decided, facts: _FactsFile, found: _FactsFile
) -> None:
    """Add the facts of all partitions to *found*; they must be those that the contracts were made from."""
    is_foreseen = True
    for number, (sent, missed) in enumerate(zip_partitions(decided.sent, decided.missed)):
        now = _ask(run, ledger, sent, missed)
        found.add_facts(now)
        is_foreseen &= now.equals(facts.read_facts(number))
    if not is_foreseen:
        raise _OutdatedError


def _select_released(sent: pl.DataFrame) -> pl.DataFrame:
    return sent.filter(pl.col("disposition") == Disposition.RELEASED).with_columns(subject=gate.subject())


def _find_subjects(sent: pl.DataFrame, missed: pl.DataFrame) -> pl.Series:
    """Return the subjects whose contracts change: of released resources, and of missed ones."""
    return pl.concat([_select_released(sent)["subject"], missed["patient"].drop_nulls()]).unique()


def _ask(run: Run[ClinicalPipeline], ledger: Ledger, sent: pl.DataFrame, missed: pl.DataFrame) -> _Facts:
    """Return the facts of a partition as the ledger has them now."""
    store, subjects = run.pipeline.datastore_id, _find_subjects(sent, missed)
    keys = _select_released(sent).select(_RESOURCE)
    later = ledger.known_resources(store, keys, except_run=run.key).select(_RESOURCE)
    return _Facts(ledger.contracts(store, subjects), later, ledger.open_of_patients(store, subjects))


def _find_held(decided: Decided) -> Iterator[pl.DataFrame]:
    """Yield what the run holds, by subject; where newer content is missing, the note of that stands."""
    for number, doubts in enumerate(decided.doubts):
        held = find_held(decided.sent.partition(number))
        yield held.join(doubts.filter("stays"), on=_RESOURCE, how="anti")


def _foresee(run: Run[ClinicalPipeline], sent: pl.DataFrame, missed: pl.DataFrame, held: pl.DataFrame) -> _Facts:
    """Return the facts of a partition as the ledger will have them once the run's resources are recorded."""
    now, claims = _ask(run, run.ledger, sent, missed), run.ledger.claimed_resources(run.pipeline.datastore_id, sent)
    later = now.later.join(claims.filter(pl.col("claimed_by") == run.key), on=_RESOURCE, how="anti")
    brought, is_own = sent.filter(_is_recorded()).join(later, on=_RESOURCE, how="anti"), pl.col("run_key") == run.key
    contested = brought.join(now.missing.filter(has_order() & ~is_own), on=_RESOURCE, how="semi")
    brought = brought.join(find_outdated(run, run.ledger, contested), on=_RESOURCE, how="anti")
    others = now.missing.filter(~is_own).join(brought, on=_RESOURCE, how="anti")
    noted = now.missing.filter(is_own).join(missed, on=_RESOURCE, how="semi")  # before the decisions
    counted = held.filter(pl.col("patient").is_in(_find_subjects(sent, missed).implode()))
    return _Facts(now.known, later, pl.concat([others, noted, counted], how="diagonal").select(FOUND_OPEN.names()))


def _is_recorded() -> pl.Expr:
    """Return whether a resource that was sent is recorded as imported: its content is proven."""
    stored = (pl.col("disposition") == Disposition.RELEASED) | (pl.col("word") == Reason.STORED_WITH_ISSUES)
    return stored.fill_null(value=False)


def _record_resources(run: Run[ClinicalPipeline], ledger: Ledger, decided: Decided) -> None:
    """Record what the data store has, and give up the claims on everything else that was decided."""
    store, key, sent = run.pipeline.datastore_id, run.key, decided.sent
    refused = pl.col("outcome") == Outcome.REJECTED
    waits = (is_open() | (pl.col("word") == Reason.AWAITING_REVIEW)).fill_null(value=False)
    # Uncertain resources and those held for them are forgotten, so that a later delivery imports and decides them anew.
    unproven = ~_is_recorded() & ~refused & ~waits
    note_open(run, ledger, decided.missed, _find_held(decided), replace=True)
    # One call for all rows, since each call reads all claims of the run.
    ledger.record_imported_resources(store, key, (rows.filter(_is_recorded()) for rows in sent))
    ledger.drop_resource_claims(store, key, (rows.filter(refused) for rows in sent))
    ledger.forget_resources(store, key, (rows.filter(unproven) for rows in sent))
    with FrameFile() as outdated:
        for rows in sent:
            outdated.add(find_outdated(run, ledger, rows.filter(_is_recorded())))
        ledger.close_open(store, key, outdated)
    if decided.more is not None:
        decided.more.record(ledger)


def _complete_contracts(
    run: Run[ClinicalPipeline], sent: pl.DataFrame, facts: _Facts, decided: Decided
) -> pl.DataFrame:
    """Return the contracts of the subjects of a partition that have released or missed resources, revised.

    A contract that an earlier run has released says from now on what this run has not brought.
    """
    pipeline, none = run.pipeline, FOUND_OPEN.to_frame()
    own = _select_released(sent).join(facts.later, on=_RESOURCE, how="anti", maintain_order="left")
    own = name_sources(own, decided.parked.taken)
    texts = dict(facts.known.select("subject", "contract").iter_rows())
    before = {subject: ClinicalContract.model_validate_json(text) for subject, text in texts.items()}
    missing = facts.missing.partition_by("patient", as_dict=True)
    rows = []
    for subject, one in draft(own, pipeline.name, pipeline.datastore_id, pipeline.risk.validation_level):
        said = decided.overrides.get(one.subject_key)
        planned = one.model_copy(update={"override": None if said is None else ContractOverride(**said)})
        contract = complete(planned, before.pop(subject, None), missing.get((subject,), none))
        rows.append(_make_contract_row(subject, contract))
    for subject, one in before.items():
        rows.append(_make_contract_row(subject, renew(one, missing.get((subject,), none))))
    return pl.DataFrame(rows, schema=CONTRACTS, orient="row")


def _make_contract_row(subject: str, contract: ClinicalContract) -> tuple[Any, ...]:
    return subject, contract.subject_key, contract.revision, contract.content_digest, contract.to_json()
