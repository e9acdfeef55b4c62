"""The brake: stop a run whose numbers are absurd, with one finding and one question to a person.

Validate measures before import: files that could not be read, files quarantined for one reason, and FHIR resources that
would be parked for one type. Audit measures before route: what it would hold. A run that is stopped has imported, or
settled and released, nothing of what the question is about. The question is the object ``brake/<gate>.json`` in the
workspace; the answer is a decision in the ledger. It stands for each measure that the question names, at the same share
or a lower one. A finding that a person has let go on is left out before the gravest is chosen: it must not hide another
one.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger import BrakeAnswer
from airlock.ledger.brakes import SCOPE
from airlock.reasons import PARSE_REASONS, Reason
from airlock.records import Disposition, Verdict
from airlock.stages.decision_log import decide
from airlock.stages.resources import TYPES
from airlock.stages.sites import CountedSites

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airlock.ledger import Ledger
    from airlock.pipelines import Brake, CcdaPipeline, ClinicalPipeline, ImagingPipeline
    from airlock.run import Run
    from airlock.stages.review import Review

    AnyRun = Run[ImagingPipeline | ClinicalPipeline | CcdaPipeline]

IMPORT, ROUTE = "import", "route"  # the gates
# The measures, by the names of their limits.
UNREAD, ONE_REASON, WAITING, HELD = "unread", "one_reason", "waiting", "held"
NIGHTS = 14
LEAST_NIGHTS = 5  # of a site, below which its median says nothing
SHOWN_REASONS = 5
# What waits for a later task of the run is not held yet.
_WAITS = (str(Reason.NOT_PUBLISHED), str(Reason.AWAITING_REVIEW))
_UNREADABLE = frozenset(str(reason) for reason in PARSE_REASONS)
_NONE = pl.Series([], dtype=pl.String)
_WHAT = {
    UNREAD: "cannot be read",
    ONE_REASON: "are quarantined as {reason}",
    WAITING: "would wait for a resource of type {reason}",
    HELD: "would be held",
}


@dataclass(frozen=True)
class Finding:
    """A number of a run that is absurd, and the question about it."""

    gate: str
    measure: str
    affected: int
    total: int
    limit: float  # share
    reason: str | None = None  # of the measure ONE_REASON; of WAITING the type of what is missing
    site: str | None = None  # if the numbers are those of one site
    median: float | None = None  # of the site's last nights, if these make the limit
    reasons: dict[str, int] = field(default_factory=dict)  # the most frequent ones of the run, with their counts
    others: tuple[Finding, ...] = ()  # less grave ones, about which the question is as well
    number: int = 1  # of the question at its gate

    @property
    def share(self) -> float:
        """The share of the run, or of the site, that is affected."""
        return self.affected / self.total

    @property
    def excess(self) -> float:
        """How many times the limit the share is; the finding with the greatest is the one that people are told."""
        return self.share / self.limit

    def describe(self, *, name_site: bool = False) -> str:
        """Return the finding in sentences with counts and reason codes; the site is named only on request."""
        codes = ", ".join(f"{code} {number}" for code, number in self.reasons.items())
        told = [one.describe_number(name_site=name_site) for one in self.list_all()]
        return f"{' '.join(told)} By reason code: {codes or 'none'}."

    def list_all(self) -> list[Finding]:
        """Return all findings of the question, the gravest first."""
        return [replace(self, others=()), *self.others]

    def describe_number(self, *, name_site: bool) -> str:
        """Return a sentence about this number alone."""
        what = _WHAT[self.measure].format(reason=self.reason)
        where = "" if self.site is None or not name_site else f" of site {self.site or '(none)'}"
        if self.median is None:
            limit = f"audit.brake.{self.measure} allows {_percent(self.limit)}"
        else:
            limit = f"in its last {NIGHTS} nights the median was {_percent(self.median)}"
        return f"{self.affected} of {self.total}{where} ({_percent(self.share)}) {what}; {limit}."


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


@dataclass
class Measured:
    """The counts of a run, or of one of its sites: all of it, and by reason what the measures count."""

    total: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)  # by reason
    waiting: Counter[str] = field(default_factory=Counter)  # by the type of what is missing
    held: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)  # the reasons to show, if not those of what is held

    def list_shares(self, gate: str) -> Iterator[tuple[str, str | None, int]]:
        """Yield the measures of a gate, each with its reason if it has one, and its count."""
        if gate == ROUTE:
            yield HELD, None, sum(self.held.values())
            return
        yield UNREAD, None, sum(number for code, number in self.quarantined.items() if code in _UNREADABLE)
        for code, number in self.quarantined.most_common():
            yield ONE_REASON, code, number
        for kind, number in self.waiting.most_common():
            yield WAITING, kind, number


@dataclass(frozen=True)
class Held:
    """What an audit would hold of a run."""

    whole: Measured
    by_site: Mapping[str, Measured]  # empty if the ledger counts the pipeline in other units


def find_brake(run: AnyRun) -> Brake | None:
    """Return the brake of a run; None if it has none: it is off, or a plan, or a redrive, which a person has chosen."""
    brake = run.pipeline.audit.brake
    return None if brake == "off" or run.plan_only or run.redrive is not None else brake


def check_verdicts(
    run: AnyRun, schema: pl.Schema, counts: Mapping[str, int], apart: pl.Series = _NONE
) -> Finding | None:
    """Return the finding that stops a run before import, and record it; what a person has let go on is left out.

    Parameters
    ----------
    run
        The run, whose dataset ``verdicts`` is complete.
    schema
        The columns of that dataset.
    counts
        The number of each verdict.
    apart
        The ids of arrivals that are not of the delivery: they are not measured.
    """
    brake = find_brake(run)
    if brake is None:
        return None
    return _write_question(run, IMPORT, _measure_verdicts(run, brake, schema, counts, apart))


def check_held(run: AnyRun, total: int, count: Callable[[], Held], *, balanced: bool = True) -> Finding | None:
    """Return the finding that keeps an audit from settling: of a stopped validate, or of what the audit would hold.

    Parameters
    ----------
    run
        The run.
    total
        The number of its arrivals, or units.
    count
        Counts what the audit would hold; it is not called for a small run.
    balanced
        Whether the books balance. If not, everything is held for that alone, and nothing is settled anyway.
    """
    brake = find_brake(run)
    if brake is None:
        return None
    for chain in dict.fromkeys(("", run.folder)):
        asked = read_question(run.within(chain), IMPORT)
        if asked is not None and any(_leave_out_answered(run.within(chain), asked.list_all())):
            return asked
    if not balanced or total < brake.least_arrivals:
        return None
    held = count()
    if sum(held.whole.held.values()) < _fewest(brake, brake.held):
        return None
    return _write_question(run, ROUTE, _find_gravest(run, brake, ROUTE, held.whole, held.by_site))


def count_held(run: AnyRun, parts: Iterable[pl.DataFrame]) -> Held:
    """Count what would be held, from frames with the ``key`` of each arrival and ``reason`` where it would be held."""
    by_site: dict[str, Measured] = {}
    whole, sites = Measured(), CountedSites(run.pipeline.source)
    for rows in parts:
        counted = sites.add_to(rows).group_by("site", "reason").len()
        for name, reason, number in counted.iter_rows():
            for measured in (whole, by_site.setdefault(name, Measured())):
                measured.total += number
                if reason is not None and reason not in _WAITS:
                    measured.held[reason] += number
    return Held(whole, by_site)


def read_held(dispositions: Mapping[str, int], reasons: Mapping[str, int]) -> Held:
    """Return what would be held by the counts of an audit; the reasons that are shown are those of all that is bad."""
    waits = sum(reasons.get(code, 0) for code in _WAITS)
    held = dispositions.get(Disposition.HELD.value, 0) - waits
    shown = Counter({code: number for code, number in reasons.items() if code not in _WAITS})
    return Held(Measured(sum(dispositions.values()), held=Counter({"": held}), shown=shown), {})


def record_answer(run: AnyRun, finding: Finding, review: Review, *, timed_out: bool) -> None:
    """Record a person's answer to a question in the ledger, for each finding that it names.

    Without an answer in time the run is stopped.

    Parameters
    ----------
    run
        The run.
    finding
        What the person was asked about.
    review
        The answer; approved lets the run go on.
    timed_out
        Whether nobody has answered.
    """
    when = datetime.fromisoformat(review.answered_at) if review.answered_at else datetime.now(UTC)
    answers = [
        BrakeAnswer(
            gate=_name_gate(run, one.gate),
            go_on=review.approved,
            measure=_name_measure(one),
            share=one.share,
            decided_by="nobody, in time" if timed_out else review.person or "unknown",
            why=review.why or "no reason given",
            decided_at=when,
            details=asdict(one),
        )
        for one in finding.list_all()
    ]

    def record(ledger: Ledger) -> None:
        for answer in answers:
            ledger.answer_brake(run.pipeline.name, run.key, answer)

    decide(run.s3, run.pipeline, run.ledger, record, SCOPE)


def read_question(run: AnyRun, gate: str) -> Finding | None:
    """Return the finding that a run's question at a gate is about; None if there is none."""
    return _read_questions(run, gate)[1]


def _read_questions(run: AnyRun, gate: str) -> tuple[int, Finding | None]:
    """Return how many questions a run has asked at a gate, and the finding of the one that is open or answered."""
    try:
        content = json.loads(run.s3.get(run.workspace.root.join(f"brake/{gate}.json")))
    except FileNotFoundError:
        return 0, None
    if content["finding"] is None:
        return content["asked"], None
    others = tuple(Finding(**one | {"others": ()}) for one in content["finding"].pop("others"))
    return content["asked"], Finding(**content["finding"], others=others)


def describe(run: AnyRun, finding: Finding) -> str:
    """Return a finding in sentences that anybody may see; without ``source.site_pattern`` the source is one site."""
    return finding.describe(name_site=run.pipeline.source.site_pattern is not None)


def _measure_verdicts(
    run: AnyRun, brake: Brake, schema: pl.Schema, counts: Mapping[str, int], apart: pl.Series
) -> Finding | None:
    total = sum(counts.values())
    quarantined, parked = (counts.get(verdict.value, 0) for verdict in (Verdict.QUARANTINE, Verdict.PARK))
    is_bad = quarantined >= _fewest(brake, min(brake.unread, brake.one_reason))
    many_wait = parked > (total * brake.waiting if apart.is_empty() else 0)
    if total < brake.least_arrivals or not (is_bad or many_wait):
        return None  # the dataset, which is large, need not be read again
    has_sites = "key" in schema.names()
    by_site: dict[str, Measured] = {}
    columns = ["arrival_id", "verdict", "reason", "detail", *(["key"] if has_sites else [])]
    waiting: Counter[str] = Counter()
    sites = CountedSites(run.pipeline.source)
    for part in run.workspace.parts("verdicts", schema, columns):
        rows = part.filter(~pl.col("arrival_id").is_in(apart.implode()))
        named = sites.add_to(rows) if has_sites else rows.with_columns(site=pl.lit(""))
        counted = named.group_by("site", "verdict", "reason").len()
        for name, verdict, reason, number in counted.iter_rows():
            measured = by_site.setdefault(name, Measured())
            measured.total += number
            if verdict == Verdict.QUARANTINE:
                measured.quarantined[reason] += number
        waits = (pl.col("verdict") == Verdict.PARK) & (pl.col("reason") == Reason.WAITING_FOR_RESOURCE)
        waiting.update(rows.filter(waits)["detail"].str.split(TYPES).explode().to_list())
    total = sum(one.total for one in by_site.values())
    if total < brake.least_arrivals:
        return None
    whole = Measured(total, sum((one.quarantined for one in by_site.values()), Counter()), waiting)
    return _find_gravest(run, brake, IMPORT, whole, by_site if has_sites else {})


def _fewest(brake: Brake, limit: float) -> float:
    """Return the smallest count at which anything can stop a run: of a site of the least size, at half of a limit."""
    return brake.least_arrivals * limit / 2


def _find_gravest(
    run: AnyRun, brake: Brake, gate: str, whole: Measured, by_site: Mapping[str, Measured]
) -> Finding | None:
    """Return the gravest finding, with the others, of those that nobody has let go on; None if there is none."""
    found = [*_find_above_limits(brake, gate, whole), *_find_above_medians(run, brake, gate, by_site)]
    unanswered = sorted(_leave_out_answered(run, found), key=lambda one: -one.excess)
    if not unanswered:
        return None
    gravest, *others = unanswered
    counted = whole.shown or (whole.held if gate == ROUTE else whole.quarantined)
    return replace(gravest, reasons=dict(counted.most_common(SHOWN_REASONS)), others=tuple(others))


def _find_above_limits(brake: Brake, gate: str, whole: Measured) -> Iterator[Finding]:
    for measure, reason, affected in whole.list_shares(gate):
        limit = getattr(brake, measure)
        if affected / whole.total > limit:
            yield Finding(gate, measure, affected, whole.total, limit, reason)


def _find_above_medians(run: AnyRun, brake: Brake, gate: str, by_site: Mapping[str, Measured]) -> Iterator[Finding]:
    large = {site: one for site, one in by_site.items() if one.total >= brake.least_arrivals}
    if brake.times_median is None or not large:
        return
    since = datetime.now(UTC) - timedelta(days=NIGHTS)
    nights = run.ledger.night_totals(run.pipeline.name, since, except_run=run.key)
    for site, measured in large.items():
        for measure, reason, affected in measured.list_shares(gate):
            median = _median_share(nights.filter(pl.col("site") == site), measure, reason)
            share = affected / measured.total
            if median is None or share < getattr(brake, measure) / 2 or share <= brake.times_median * median:
                continue
            limit = max(getattr(brake, measure) / 2, brake.times_median * median)
            yield Finding(gate, measure, affected, measured.total, limit, reason, site, median)


def _median_share(nights: pl.DataFrame, measure: str, reason: str | None) -> float | None:
    """Return the median share of a site's nights; None if there are too few."""
    word = Disposition.HELD if measure == HELD else Disposition.QUARANTINED
    code = pl.col("reason")
    of_measure = {
        UNREAD: code.is_in(sorted(_UNREADABLE)),
        ONE_REASON: code == pl.lit(reason, pl.String),
        HELD: ~code.is_in(_WAITS),
    }[measure]
    counted = (pl.col("disposition") == word) & of_measure
    arrivals = pl.col("arrivals")
    shares = nights.group_by(pl.col("started_at").dt.date()).agg(
        total=arrivals.sum(), affected=arrivals.filter(counted.fill_null(value=False)).sum()
    )
    shares = shares.filter(pl.col("total") > 0)
    if shares.height < LEAST_NIGHTS:
        return None
    return float(shares.select((pl.col("affected") / pl.col("total")).median()).item())


def count_stops(totals: pl.DataFrame, brake: Brake) -> tuple[int, int]:
    """Return how many runs the limits of a brake would have stopped, and how many runs there are.

    Parameters
    ----------
    totals
        `ledger.brakes.NIGHT_TOTALS`.
    brake
        The limits.
    """
    stops, runs = 0, totals.partition_by("started_at")
    for run in runs:
        whole = Measured(int(run["arrivals"].sum()))
        for disposition, reason, number in run.select("disposition", "reason", "arrivals").iter_rows():
            if disposition == Disposition.QUARANTINED:
                whole.quarantined[reason] += number
            elif disposition == Disposition.HELD and reason not in _WAITS:
                whole.held[reason] += number
        if whole.total >= brake.least_arrivals:
            stops += any(next(_find_above_limits(brake, gate, whole), None) for gate in (IMPORT, ROUTE))
    return stops, len(runs)


def _leave_out_answered(run: AnyRun, found: Iterable[Finding]) -> Iterator[Finding]:
    """Yield the findings but those whose last answer, at the same share or a higher one, lets the run go on."""
    for one in found:
        last = run.ledger.last_brake_answer(run.key, _name_gate(run, one.gate), _name_measure(one))
        if last is None or not last.go_on or one.share > last.share:
            yield one


def _name_gate(run: AnyRun, gate: str) -> str:
    """Return the name of a gate in the ledger; the second chain of stages has its own."""
    return f"{run.folder}/{gate}" if run.folder else gate


def _name_measure(finding: Finding) -> str:
    return ":".join(part for part in (finding.measure, finding.reason, finding.site) if part is not None)


def _write_question(run: AnyRun, gate: str, found: Finding | None) -> Finding | None:
    """Write the question about a finding, and return the finding with its number; None takes the last question back."""
    asked, before = _read_questions(run, gate)
    if found is None and before is None:
        return None
    if found is not None:
        asked += before is None or not _names(before, found)
        found = replace(found, number=asked)
    content = {"asked": asked, "finding": None if found is None else asdict(found)}
    run.workspace.write_json(f"brake/{gate}.json", content)
    return found


def _names(question: Finding, found: Finding) -> bool:
    """Return whether a question names all of these findings, at the same shares or higher ones."""
    named = {_name_measure(one): one.share for one in question.list_all()}
    return all(one.share <= named.get(_name_measure(one), 0) for one in found.list_all())
