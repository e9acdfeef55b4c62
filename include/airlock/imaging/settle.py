"""Settle: decide on studies under their locks, and write gates, contracts and dispositions to the ledger at once.

What other runs have of a study is asked before the decision and again under the lock. If it has changed, the decision
is made anew: of two runs that settle one study, the second sees the first as settled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging import completeness, copies, gate
from airlock.imaging.completeness_counts import StudyFiles, count_studies, find_imported, merge_earlier
from airlock.imaging.contracts import StudyContract, complete, renew_completeness, with_revision
from airlock.imaging.fhir.publishing import read_publishing
from airlock.imaging.matching import with_match
from airlock.imaging.report import imbalances
from airlock.imaging.unread import find_causes, name_studies
from airlock.ledger import StoreOrigin, arrivals, contracts, gates, instances, reviews
from airlock.ledger.reviews import ASKED
from airlock.ledger.studies import lock_scopes
from airlock.reasons import Reason
from airlock.records import CONTRACTS, Gate, Outcome, digest
from airlock.stages.auditing import is_open
from airlock.stages.releases import write_payloads
from airlock.stages.reporting import describe_imbalances
from airlock.stages.review import ask, find_overridden, overrides_by_key, select_asked
from airlock.stages.sites import site_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from airlock.ledger import Ledger
    from airlock.pipelines import Audit
    from airlock.run import Run

IN_STORE = pl.col("outcome").is_in((*gate.IMPORTED, Outcome.NON_PRIMARY.value))
MOST_STUDIES = 2_000  # that one transaction settles: as long as it lasts, others wait for their locks
_SUBJECT = {"StudyInstanceUID": "subject", "study_key": "subject_key"}  # the ledger's word for a study is subject
COVERED = (gates.SCOPE, contracts.SCOPE, instances.SCOPE, reviews.SCOPE)  # the locks of the studies are finer


class UnbalancedError(RuntimeError):
    """An arrival has no disposition, or more than one."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Part:
    """Whole studies of a run, as audit has accounted for them."""

    verdicts: pl.DataFrame  # of every arrival, with or without a verdict
    outcomes: pl.DataFrame  # with ``blocks``
    drafts: pl.DataFrame  # of the studies' contracts
    arrivals: pl.DataFrame
    unread_by_study: pl.DataFrame  # files that cannot be read and are counted to these studies
    unread_by_file: pl.DataFrame  # of these arrivals, with their studies
    declared: pl.DataFrame  # `declarations.DECLARED`


@dataclass(frozen=True)
class Policy:
    """What decides on all studies of a run beside their own files."""

    balanced: bool
    published: Collection[str]  # study keys
    overrides: pl.DataFrame  # people's decisions on this run's holds
    redriven: pl.Series  # the StudyInstanceUIDs that a redrive has taken over: its own audit asks about them
    released: pl.Series  # the StudyInstanceUIDs that this run has released before: a release is final
    unattributed: Mapping[str, int]  # unread files without a study, by site
    # StudyInstanceUIDs that waited for others until the publication was over, with the reason; None before it was.
    late: Mapping[str, str] | None
    matches: pl.DataFrame  # `matching.MATCHED`: what the publication knows of the studies' Patients
    settles: bool = True  # or only decides, since the brake has stopped the run


@dataclass(frozen=True)
class Elsewhere:
    """What other runs have of some studies: each a StudyInstanceUID with a file or a run."""

    in_flight: list[tuple[str, str]]
    waiting: list[tuple[str, str]]  # for a person
    missing: list[tuple[str, str]]  # not imported
    contracts: pl.DataFrame  # the latest of each study
    imported: pl.Series  # SOPInstanceUIDs of the run's quarantined files whose instance is in the data store
    replaced: pl.Series  # the run's unread files whose keys have a newer content that another run has settled
    counts: pl.DataFrame  # `completeness.COUNTS`: the studies' instances in all runs

    def find_causes(self, settings: Audit) -> Mapping[Reason, list[tuple[str, str]]]:
        """Return the causes that hold the studies, by reason; the first of a study counts: `gate.decide_studies`."""
        short = completeness.find_holds(self.counts, settings.declared_count, datetime.now(UTC))
        others = {Reason.STUDY_INCOMPLETE: self.missing, Reason.STUDY_IN_FLIGHT: self.in_flight}
        return short | {Reason.STUDY_HELD: self.waiting} | (others if settings.hold_incomplete_studies else {})

    def equals(self, other: Elsewhere) -> bool:
        """Return whether two answers are the same."""
        same = (self.in_flight, self.waiting, self.missing) == (other.in_flight, other.waiting, other.missing)
        frames = ("contracts", "imported", "replaced", "counts")
        return same and all(getattr(self, name).equals(getattr(other, name)) for name in frames)


def cut_studies(partition: tuple[pl.DataFrame, ...]) -> Iterator[tuple[pl.DataFrame, ...]]:
    """Yield whole studies of a partition piece by piece, each of about `MOST_STUDIES` at most.

    The frames are those of a `Part`: verdicts, outcomes, drafts, unread files by study and by file, declared numbers.
    """
    study, file = pl.col("StudyInstanceUID"), pl.col("arrival_id")
    pieces = -(-partition[0]["StudyInstanceUID"].n_unique() // MOST_STUDIES)
    if pieces <= 1:
        yield partition
        return
    with_files = pl.when(study != "").then(study).otherwise(file)
    keys = (with_files, with_files, study, study, file, study)
    for number in range(pieces):
        yield tuple(rows.filter(key.hash() % pieces == number) for rows, key in zip(partition, keys, strict=True))


def settle_part(run: Run, part: Part, policy: Policy) -> dict[str, pl.DataFrame]:
    """Decide on the studies of a part and write the decisions to the ledger; return them as frames.

    The frames are ``verdicts``, ``outcomes``, ``gates``, ``holds``, ``overrides``, ``dispositions`` and ``contracts``.
    If the run's books do not balance, everything is held and nothing is settled.

    Raises
    ------
    UnbalancedError
        If the dispositions are not one per arrival. Nothing of the part is written.
    """
    _, files = copies.move_held_copies(part.verdicts, part.outcomes)
    studies = files["StudyInstanceUID"].unique().sort()
    scopes = [arrivals.scope(run.pipeline.name), *lock_scopes(run.pipeline.datastore_id, studies)]
    while True:  # another round means that another run has settled one of these studies
        elsewhere = _look_elsewhere(run, run.ledger, studies, part)
        decided = _decide(run, part, elsewhere, policy)
        if not policy.settles:
            return decided
        releases = write_payloads(run, _select_released(decided["contracts"], decided["gates"]))
        with run.ledger.at_once(*scopes, covered=COVERED, keep_first=True) as ledger:
            if _look_elsewhere(run, ledger, studies, part).equals(elsewhere):
                _record(run, ledger, decided, releases, policy)
                return decided


def foresee_holds(run: Run, verdicts: pl.DataFrame, outcomes: pl.DataFrame, unread: pl.DataFrame) -> pl.DataFrame:
    """Return the key of each arrival of a part, with the reason where the run's own findings would hold it.

    Parameters
    ----------
    run
        The run.
    verdicts, outcomes, unread
        As of a `Part`. What other runs have of the studies is not asked.
    """
    settings = run.pipeline.audit
    imported = find_imported(run.ledger, run.pipeline.datastore_id, copies.find_quarantined_uids(verdicts))
    lacking, facts = copies.move_held_copies(copies.leave_out_stored(verdicts, imported), outcomes)
    gates = gate.decide_studies(lacking, facts, find_causes(unread, settings), settings, balanced=True)
    stored = facts.filter(IN_STORE | pl.col("outcome").is_null()).select("arrival_id", "StudyInstanceUID")
    held = stored.join(gates.filter(pl.col("gate") == Gate.HOLD), on="StudyInstanceUID").unique("arrival_id")
    return verdicts.select("arrival_id", "key").join(held.select("arrival_id", "reason"), on="arrival_id", how="left")


def release_waiting(run: Run, policy: Policy) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Release the studies that earlier runs held only for files in flight or to come; return their contracts and gates.

    Their last file has been settled or given back by a run that had no reason to decide on the study. Once the run's
    publication is over, only what it published is released: the rest waits for a run that can still publish it.
    """
    store = run.pipeline.datastore_id
    waiting = run.ledger.waiting_studies(store, run.pipeline.name, run.key)
    if policy.late is not None:
        waiting = waiting.filter(pl.col("subject_key").is_in(sorted(policy.published)))
    known = run.ledger.contracts(store, waiting["subject"])
    # What lacks a stopped instance is released here only by a pipeline that does not hold it for that.
    renewed = _renew_contracts(run, known, policy, lacks_none=run.pipeline.audit.hold_incomplete_studies)
    releases = write_payloads(run, renewed)
    scopes = [arrivals.scope(run.pipeline.name), *lock_scopes(store, waiting["subject"])]
    with run.ledger.at_once(*scopes, covered=COVERED, keep_first=True) as ledger:
        elsewhere = _look_elsewhere(run, ledger, waiting["subject"])
        counts = completeness.count_contracts(elsewhere.contracts, waiting)
        causes = replace(elsewhere, counts=counts).find_causes(run.pipeline.audit)
        kept_back = {uid for files in causes.values() for uid, _ in files}
        unchanged = known.join(elsewhere.contracts, on=["subject", "revision"], how="semi")["subject"]
        free = renewed.filter(pl.col("subject").is_in(sorted({*unchanged} - kept_back)))
        ledger.revise_contracts(store, run.key, free["subject"], lambda _: free)
        decided = free.select(study_key="subject_key", StudyInstanceUID="subject", gate=pl.lit(Gate.RELEASE.value))
        decided = decided.with_columns(reason=pl.lit(None, pl.String))
        if run.pipeline.healthlake is not None:
            decided = gate.hold_unpublished(decided, policy.published)
        # A study that is not published keeps its gate: if this run does not publish it after all, the next one does.
        ledger.record_gates(store, run.key, decided.filter(pl.col("gate") == Gate.RELEASE).rename(_SUBJECT))
        released = _select_released(free, decided)
        releases = releases.join(released, on=["subject_key", "revision"], how="semi")
        ledger.record_releases(run.pipeline.name, run.key, store, releases)
        _release_siblings(run, ledger, decided)
        told = decided.filter(pl.col("gate") == Gate.RELEASE)["StudyInstanceUID"]
        ask(run, ledger, ASKED.to_frame(), decided=told, released=told)  # nobody needs to answer about them any more
    return free, decided


def _look_elsewhere(run: Run, ledger: Ledger, studies: pl.Series, part: Part | None = None) -> Elsewhere:
    """Return what other runs have of these studies.

    Parameters
    ----------
    run, ledger
        The run, and the ledger or the part of it in a transaction.
    studies
        StudyInstanceUIDs.
    part
        The run's files of these studies; None if no run's files are its own here.
    """
    store, name, own = run.pipeline.datastore_id, run.pipeline.name, "" if part is None else run.key
    in_flight = ledger.studies_in_flight(store, studies, own)
    found = ledger.unresolved_files(store, name, studies, own)
    waiting = ledger.unresolved_files(store, name, studies, own, missing=False) if found else []
    missing = sorted(set(found) - set(waiting))
    if run.pipeline.healthlake is not None:  # it would publish the study for a Patient who is in doubt
        waiting = [*waiting, *ledger.contradicted_elsewhere(run.pipeline.healthlake.datastore_id, name, studies)]
    contracts, nothing = ledger.contracts(store, studies), pl.Series([], dtype=pl.String)
    other = Elsewhere(in_flight, waiting, missing, contracts, nothing, nothing, completeness.COUNTS.to_frame())
    if part is None:
        return other
    imported = find_imported(ledger, store, copies.find_quarantined_uids(part.verdicts))
    replaced = ledger.find_replaced(name, part.unread_by_study["arrival_id"])
    unread = _leave_out_replaced(part.unread_by_study, replaced)
    lost = [*missing, *unread.select("StudyInstanceUID", "arrival_id").iter_rows()]
    files = StudyFiles(copies.leave_out_stored(part.verdicts, imported), part.outcomes, lost, in_flight)
    numbers = merge_earlier(studies, part.declared, contracts)
    counts = count_studies(ledger, store, run.key, numbers, files)
    return replace(other, imported=imported, replaced=replaced, counts=counts)


def _leave_out_replaced(unread: pl.DataFrame, replaced: pl.Series) -> pl.DataFrame:
    """Return the unread files that hold their studies: their senders have replaced the others since."""
    return unread.filter(~pl.col("arrival_id").is_in(replaced.implode()))


def _decide(run: Run, part: Part, elsewhere: Elsewhere, policy: Policy) -> dict[str, pl.DataFrame]:
    decision = _decide_gates(run, part, elsewhere, policy)
    dispositions = gate.decide_dispositions(part.arrivals, part.verdicts, part.outcomes, decision["gates"])
    dispositions = name_studies(dispositions, part.unread_by_file)
    problems = describe_imbalances(imbalances({"arrivals": part.arrivals, "dispositions": dispositions}))
    if problems and policy.balanced:
        raise UnbalancedError(problems)
    dispositions = completeness.explain(dispositions, elsewhere.counts)
    frames = decision | {"verdicts": part.verdicts, "outcomes": part.outcomes, "dispositions": dispositions}
    contracts = _complete_contracts(run, part, elsewhere, decision["overrides"], policy)
    return frames | {"counts": elsewhere.counts, "contracts": _leave_out_later(run, contracts, policy.released)}


def _leave_out_later(run: Run, completed: pl.DataFrame, released: pl.Series) -> pl.DataFrame:
    """Leave out contracts of studies that this run has released before, if later runs added what is not released."""
    again = completed.filter(pl.col("subject").is_in(released.implode()))["subject_key"]
    known = run.ledger.released_revisions(run.pipeline.name, run.pipeline.datastore_id, again)
    later = completed.join(known, on="subject_key", suffix="_released").filter(
        pl.col("revision") > pl.col("revision_released")
    )
    return completed.join(later, on="subject", how="anti")


def _decide_gates(run: Run, part: Part, elsewhere: Elsewhere, policy: Policy) -> dict[str, pl.DataFrame]:
    """Return the studies' gates, the holds with their findings, and the holds that a person has overridden."""
    settings = run.pipeline.audit
    unread = _leave_out_replaced(part.unread_by_study, elsewhere.replaced)
    causes = {**elsewhere.find_causes(settings), **find_causes(unread, settings)}
    lacking = copies.leave_out_stored(part.verdicts, elsewhere.imported)
    lacking, outcomes = copies.move_held_copies(lacking, part.outcomes)
    decided = gate.decide_studies(lacking, outcomes, causes, settings, balanced=policy.balanced)
    found = gate.find_holds(decided, lacking, outcomes, causes, settings)
    overridden = find_overridden(found, policy.overrides)
    released = pl.concat([policy.released, overridden["subject"]])
    decided = gate.release_studies(decided, released)
    if run.pipeline.healthlake is not None:
        brought = decided["StudyInstanceUID"].is_in(part.outcomes["StudyInstanceUID"].implode())
        published = {*policy.published, *decided.filter(~brought)["study_key"]}  # nothing is there to be published
        decided = gate.release_studies(gate.hold_unpublished(decided, published, policy.late), policy.released)
    holds = found.filter(~pl.col("subject").is_in(released.implode()))
    return {"gates": decided, "holds": holds, "overrides": overridden}


def _select_released(completed: pl.DataFrame, decided: pl.DataFrame) -> pl.DataFrame:
    released = decided.filter(pl.col("gate") == Gate.RELEASE)["StudyInstanceUID"]
    return completed.filter(pl.col("subject").is_in(released.implode()))


def _record(run: Run, ledger: Ledger, decided: dict[str, pl.DataFrame], releases: pl.DataFrame, policy: Policy) -> None:
    """Write the decisions; the run gives up what its jobs did not import, for a later delivery to import."""
    store = run.pipeline.datastore_id
    ledger.record_gates(store, run.key, decided["gates"].rename(_SUBJECT))
    completed = decided["contracts"]
    ledger.revise_contracts(store, run.key, completed["subject"], lambda _: completed)
    if policy.balanced:
        words = decided["dispositions"]
        open_studies = words.filter(is_open())["study_instance_uid"].drop_nulls().unique()
        ledger.settle(run.pipeline.name, run.key, words.filter(~is_open()), open_studies)
        ledger.record_releases(run.pipeline.name, run.key, store, releases)
        ledger.drop_instances(store, run.key, decided["outcomes"].filter(~IN_STORE & ~is_open())["SOPInstanceUID"])
        new = ~pl.col("StudyInstanceUID").is_in(policy.released.implode())
        _release_siblings(run, ledger, decided["gates"].filter(new))
        _ask(run, ledger, decided, policy)


def _ask(run: Run, ledger: Ledger, decided: dict[str, pl.DataFrame], policy: Policy) -> None:
    """Ask people about the held studies; those that are not held any more are asked about no longer."""
    gates, uid = decided["gates"], pl.col("StudyInstanceUID")
    named = decided["verdicts"].select(uid, "key").with_columns(site_of(run.pipeline.source))
    sites = named.group_by(subject=uid).agg(pl.col("site").min())
    holds = decided["holds"].filter(~pl.col("subject").is_in(policy.redriven.implode()))
    released = gates.filter(pl.col("gate") == Gate.RELEASE)["StudyInstanceUID"]
    over = released if run.redrive is None else gates["StudyInstanceUID"]  # a redrive takes whole studies over
    # The approval of a study that is not published yet stays open: a further publication is to release it.
    approved = decided["overrides"].filter(~pl.col("subject").is_in(released.implode()))["subject"]
    others = gates.filter(~uid.is_in(approved.implode()))["StudyInstanceUID"]
    ask(run, ledger, select_asked(holds, sites), decided=others, released=over)


def _release_siblings(run: Run, ledger: Ledger, decided: pl.DataFrame) -> None:
    released = decided.filter(pl.col("gate") == Gate.RELEASE)["study_key"]
    ledger.settle_siblings(run.pipeline.datastore_id, run.key, released)


def _complete_contracts(
    run: Run, part: Part, elsewhere: Elsewhere, overridden: pl.DataFrame, policy: Policy
) -> pl.DataFrame:
    """Return the contract of every study with imported instances, revised."""
    imported = part.outcomes.filter(pl.col("outcome").is_in(gate.IMPORTED))
    image_sets = dict(imported.select("SOPInstanceUID", "image_set_id").iter_rows())
    drafts = part.drafts.filter(pl.col("StudyInstanceUID").is_in(imported["StudyInstanceUID"].unique().implode()))
    overrides = overrides_by_key(overridden)
    unread = completeness.count_unattributed(part.verdicts, site_of(run.pipeline.source), policy.unattributed)
    facts = completeness.describe(elsewhere.counts, unread, _count_foreign(run, drafts))
    earlier = {row["subject"]: row for row in elsewhere.contracts.iter_rows(named=True)}
    matches = _find_matches(policy, drafts["StudyInstanceUID"])
    rows = []
    for uid, key, text in drafts.select("StudyInstanceUID", "study_key", "contract").iter_rows():
        before = earlier.get(uid)
        said = overrides.get(key), facts.get(uid)
        known = before["contract"] if before else None
        completed = complete(text, image_sets, known, *said, rules=run.pipeline.classify)
        completed = _name_patient(run, completed, matches.get(uid))
        rows.append((uid, key, *_revise_contract(completed, before)))
    return pl.DataFrame(rows, schema=CONTRACTS, orient="row")


def _count_foreign(run: Run, drafts: pl.DataFrame) -> dict[str, int]:
    """Return how many image sets of each study others had stored when the data store was adopted, by UID."""
    store = run.pipeline.datastore_id
    known = run.ledger.find_store(store)
    if known is None or known.origin is not StoreOrigin.ADOPTED:
        return {}
    found = run.ledger.foreign_studies(store, drafts["study_key"]).group_by("study_key").len("sets")
    return dict(drafts.join(found, on="study_key").select("StudyInstanceUID", "sets").iter_rows())


def _find_matches(policy: Policy, studies: pl.Series) -> dict[str, str]:
    """Return what the publication knows of the Patients of these studies, as JSON, by StudyInstanceUID."""
    found = policy.matches.filter(pl.col("StudyInstanceUID").is_in(studies.implode()))
    return dict(found.select("StudyInstanceUID", "patient_match").drop_nulls().iter_rows())


def _name_patient(run: Run, text: str, match: str | None) -> str:
    """Return a contract with the study's FHIR references, and with what the publication knows of its Patient."""
    if run.pipeline.healthlake is None:
        return text
    settings = read_publishing(run.pipeline, run.pipeline.healthlake)
    return with_match(StudyContract.model_validate_json(text), match, settings).to_json()


def _renew_contracts(run: Run, contracts: pl.DataFrame, policy: Policy, *, lacks_none: bool) -> pl.DataFrame:
    """Return contracts whose studies wait for nothing any more, revised where they say so."""
    rows = []
    matches = _find_matches(policy, contracts["subject"])
    for row in contracts.iter_rows(named=True):
        renewed = renew_completeness(with_revision(row["contract"], 0, row["revision"]), lacks_none=lacks_none)
        if row["subject"] in matches:
            renewed = _name_patient(run, renewed, matches[row["subject"]])
        rows.append((row["subject"], row["subject_key"], *_revise_contract(renewed, row)))
    return pl.DataFrame(rows, schema=CONTRACTS, orient="row")


def _revise_contract(text: str, before: dict[str, Any] | None) -> tuple[int, str, str]:
    """Return revision, content digest and JSON of a contract; the revision rises only if the content has changed."""
    content = digest(text, length=64)
    revision = 1 if before is None else before["revision"] + (before["content_digest"] != content)
    return revision, content, with_revision(text, revision)
