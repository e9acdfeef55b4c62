"""Play a history: its steps in their order, the invariants at every point, and at the end what must hold in quiet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airlock.ledger import LedgerError
from airlock.ledger.release import release_run
from airlock.ledger.runs import name_wave
from airlock.records import Window
from airlock.run import RedriveRequest, WaveOf, run_key
from airlock.storage.s3uri import S3Uri
from tests.explore import contents, quiet
from tests.explore.aim import WITNESSES, Trace, Witness, is_aimed
from tests.explore.books import Books
from tests.explore.facts import Facts, Put, Violation
from tests.explore.history import (
    STAGES,
    Clear,
    GiveBack,
    GiveUp,
    Go,
    Kill,
    Lose,
    Rebuild,
    Reconcile,
    Remove,
    RunPlan,
    Stall,
    Sweep,
    Upload,
    Wait,
)
from tests.explore.invariants import AT_EVERY_POINT, TRANSIENT
from tests.explore.lost import compare, find_at_rest, lose_image_set
from tests.explore.quiet import LAST
from tests.explore.rebuilt import rebuild_ledger
from tests.explore.scheduler import Actor
from tests.explore.stages import DagRun, RunSpec
from tests.explore.sweeps import do_sweep, sweep_at_rest
from tests.explore.waves import read_parts
from tests.explore.world import pipelines_of

if TYPE_CHECKING:
    from tests.explore.books import FileReader
    from tests.explore.history import History, Step
    from tests.explore.scheduler import Site
    from tests.explore.world import World

REST_HOURS = 72.0  # after which an object that is owed is due again
_LATER_HOURS = 0.2  # after which a failed run is cleared once more: a killed try has leased messages for two minutes
_CLEARS = 3  # of a run that fails again and again, at the end


@dataclass
class Coverage:
    """The points that were reached, and those at which a run was killed or let others go on."""

    witnesses: dict[Site, list[Witness]] = field(default_factory=dict)
    locked: set[Site] = field(default_factory=set)  # within transactions, where no run lets others go on
    reached: Counter[Site] = field(default_factory=Counter)
    killed: Counter[Site] = field(default_factory=Counter)
    waited: Counter[Site] = field(default_factory=Counter)


@dataclass
class Played:
    """The result of a history."""

    history: History
    trace: Trace
    violations: list[Violation] = field(default_factory=list)
    timeline: list[str] = field(default_factory=list)
    books: Books = field(default_factory=Books)
    state: quiet.State | None = None


class Player:
    """Plays one history.

    Parameters
    ----------
    world
        Where; it is emptied first.
    history
        What.
    coverage
        Where the points are counted.
    stop
        Whether the first violation ends the history.
    quietly
        Whether only the state at the end is asked for.
    without
        Invariants whose violations do not count.
    audits_again
        Whether every run is audited a second time at the end.
    """

    def __init__(
        self,
        world: World,
        history: History,
        coverage: Coverage,
        *,
        stop: bool = True,
        quietly: bool = False,
        without: frozenset[int] = frozenset(),
        audits_again: bool = False,
    ) -> None:
        self.outside = world.reset()
        assert world.reader is not None
        self.reader: FileReader = world.reader
        self.history = history
        self.coverage = coverage
        self.played = Played(history, Trace(history))
        self.facts = Facts(world.services)
        self.runs: dict[str, DagRun] = {}
        self.listed_at: dict[str, datetime] = {}
        self.stalled: set[str] = set()  # runs that never start the next wave
        self._cut: set[str] = set()  # runs whose waves are known
        self.pipelines = pipelines_of(history)
        self._stop, self._quietly, self._without = stop, quietly, without
        self.audits_again = audits_again
        self._before = self.reader.read()
        self._version, self._jobs = self.reader.version(), 0

    def play(self, *, to_the_end: bool = True) -> Played:
        """Do all steps, then bring every run to its end and check what holds in quiet."""
        try:
            for step in self.history.steps:
                self.do(step)
            if to_the_end:
                self._come_to_rest()
                self.played.state = quiet.read_state(self.facts, self.outside.s3, self._before)
        except _Found:
            pass
        finally:
            for run in self.runs.values():
                run.actor.watch = _look_away
                run.actor.kill()
        self.played.books = self._before
        return self.played

    def do(self, step: Step) -> None:
        """Do one step; one that does not apply does nothing."""
        self.say(str(step))
        self.played.trace.done.append(step)
        match step:
            case Upload():
                self._upload(step)
            case Remove(key):
                self.outside.s3.delete_object(Bucket="archive", Key=key)
                self.facts.end_put(key, self.outside.clock.time)
            case Wait(hours):
                self.outside.clock.move(hours)
            case Go():
                self._go(step)
            case Kill(name):
                self._kill(name)
            case Clear():
                self._clear(step)
            case GiveUp():
                self._give_up(step)
            case GiveBack(name):
                self._give_back(name)
            case Sweep() | Rebuild() | Lose() | Reconcile() | Stall():
                self._maintain(step)
        self.check()

    def _upload(self, step: Upload) -> None:
        now = self.outside.clock.now()
        modified = now - timedelta(hours=step.age)
        modified = modified.replace(microsecond=modified.microsecond // 1000 * 1000)  # S3 lists milliseconds
        self.outside.s3.store("archive", step.key, contents.make(step.content), last_modified=modified)
        self.facts.add_put(Put(len(self.facts.puts), step.key, step.content, now, modified))

    def _go(self, step: Go) -> None:
        name = step.run
        if name not in self.runs and not self._is_due(self.history.runs[name]):
            return
        run = self.runs.get(name) or self.open_run(name, self.history.runs[name])
        if not run.actor.alive:
            if run.states:
                return
            run.begin(STAGES[0])
        self._let_go(run, step)

    def _is_due(self, plan: RunPlan) -> bool:
        """Return whether a run may start: a wave is started by the one before, once that has claimed."""
        if not plan.wave:
            return True
        before = self._wave(plan.wave_of, plan.wave - 1)
        return before is not None and self._starts_next(before)

    def _starts_next(self, run: DagRun) -> bool:
        return run.states.get("buffer") == "success" and run.spec.name not in self.stalled and run.starts_next

    def _wave(self, lead: str, number: int) -> DagRun | None:
        return self.runs.get(lead if number == 1 else f"{lead}{number}")

    def _let_go(self, run: DagRun, step: Go | Clear | GiveUp) -> None:
        """Let a run go on as far as a step says, and count where it stops."""
        reached = run.actor.reached
        points, until = (step.points, step.until) if isinstance(step, Go) else (None, "")
        run.actor.go(points, fatal=step.fatal, until=until, at=step.at)
        counted = self.coverage.killed if step.fatal else self.coverage.waited
        stopped = run.actor.alive or "killed" in run.states.values()
        if stopped and run.actor.reached > reached and run.actor.at:
            counted[run.actor.at] += 1
        self._after(run)

    def open_run(self, name: str, plan: RunPlan) -> DagRun:
        """Return a new run of this name."""
        self.played.trace.plans[name] = plan
        run = DagRun(
            self._spec(name, plan), self.outside, Actor(name, self._watch), claims_only=self.history.claims_only
        )
        self.runs[name] = run
        self.facts.names[run.run.key] = name
        return run

    def _spec(self, name: str, plan: RunPlan) -> RunSpec:
        window = Window(*map(datetime.fromisoformat, plan.window)) if plan.window else None
        when = f"{window.end.isoformat()}" if window else name
        request = RedriveRequest("an operator", "the cause is cured", reasons=plan.reasons, findings=plan.finds)
        asked = request if plan.reasons or plan.finds else None
        pipeline = self.pipelines[plan.pipeline]
        spec = RunSpec(name, pipeline, f"{plan.how}__{when}", window, plan.prefix or None, asked)
        if not plan.wave:
            return spec
        lead = self.runs[plan.wave_of].spec
        wave = WaveOf(lead.run_id, plan.wave)
        return replace(spec, run_id=name_wave(lead.run_id, plan.wave), prefix=lead.prefix, wave=wave)

    def _after(self, run: DagRun) -> None:
        """Say where a run is, and note what it has done."""
        if run.actor.error is not None and not _is_kill(run.actor.error):
            raise run.actor.error
        if run.states.get("validate") == "success":
            self.facts.validated.add(run.run.key)
        if run.states.get("buffer") == "success":
            self.listed_at.setdefault(run.spec.name, self.outside.clock.time)
            self._read_parts(run)
        at = run.actor.at
        if run.actor.alive and at is not None:
            self.say(f"  {run.spec.name} waits in {at.stage} before {at.call} ({at.where})")
            return
        states = ", ".join(f"{stage} {state}" for stage, state in run.states.items() if state != "success")
        self.say(f"  {run.spec.name} has ended: {states or 'success'}{_describe_errors(run)}")
        if at is not None and "killed" in run.states.values():
            self.say(f"  (killed in {at.stage} before {at.call}, {at.where})")

    def _kill(self, name: str) -> None:
        run = self.runs.get(name)
        if run is not None and run.actor.alive:
            if run.actor.at:
                self.coverage.killed[run.actor.at] += 1
            run.actor.kill()
            self._after(run)

    def _clear(self, step: Clear) -> None:
        run, stage = self.runs.get(step.run), step.stage
        if run is None or run.actor.alive:
            return
        first = run.stopped_at or stage or STAGES[-1]
        if stage and STAGES.index(stage) < STAGES.index(first):
            first = stage
        if STAGES.index(first) <= STAGES.index("validate"):
            self.facts.validated.discard(run.run.key)
        run.begin(first)
        self._let_go(run, step)

    def _give_up(self, step: GiveUp) -> None:
        run = self.runs.get(step.run)
        if run is not None and not run.actor.alive and run.give_up_task():
            self._let_go(run, step)

    def _give_back(self, name: str) -> None:
        run, plan = self.runs.get(name), self.history.runs.get(name)
        lead = None if plan is None else self.runs.get(plan.wave_of)
        if run is None and plan is not None and lead is not None:  # a wave that has not begun
            self._release(plan.pipeline, run_key(plan.pipeline, name_wave(lead.spec.run_id, plan.wave)))
        elif run is not None and not run.actor.alive and not run.ended_well:
            self._release(run.spec.pipeline.name, run.run.key)

    def _release(self, pipeline: str, key: str) -> None:
        try:
            lines = release_run(self.outside.ledger, pipeline, key, jobs_ended=True)
        except LedgerError as error:
            lines = [f"refused: {str(error)[:100]}"]
        else:
            self.facts.validated.discard(key)
            self.facts.given_back.add(key)
        self.say(f"  {'; '.join(lines)}")

    def _maintain(self, step: Sweep | Rebuild | Lose | Reconcile | Stall) -> None:
        match step:
            case Sweep():
                do_sweep(self, step)
            case Rebuild():
                self._rebuild()
            case Stall(name):
                self.stalled.add(name)
            case Lose():
                lose_image_set(self, step)
            case Reconcile():
                compare(self, step)

    def _rebuild(self) -> None:
        """Lose the ledger and rebuild it; it is as before, unless a killed run has not kept all that it changed."""
        for name in self.runs:
            self._kill(name)
        found = rebuild_ledger(self.outside, self.pipelines.values(), exact=not self._was_killed)
        self._before = self.reader.read()
        self._version = self.reader.version()
        self._note(found)

    @property
    def _was_killed(self) -> bool:
        return any("killed" in str(line) or "refused" in str(line) for line in self.played.timeline)

    def _come_to_rest(self) -> None:
        """Let every run go on to its end, cure what failed, and take what is left, as the next nights would."""
        self.say("everything comes to rest")
        for run in self.runs.values():
            if run.actor.alive:
                self.do(Go(run.spec.name))
        if self.history.claims_only and not self._quietly:
            self._note(quiet.windows_take_everything(self))  # before anybody clears a night that failed
            sweep_at_rest(self)
        for run in list(self.runs.values()):
            self._cure(run)
        self._take_the_waves()
        if not self.history.claims_only:
            self._take_the_rest()
            find_at_rest(self)
            self._send_the_rest()
        if not self._quietly:
            for check in quiet.IN_QUIET:
                self._note(check(self))

    def _cure(self, run: DagRun) -> None:
        for number in range(_CLEARS):
            if run.ended_well:
                break
            if number:
                self.do(Wait(_LATER_HOURS))
            self.do(Clear(run.spec.name, "buffer" if _lacks_claims(run) else ""))

    def _take_the_waves(self) -> None:
        """Start every wave that the one before has to start; Airflow retries that task until it has."""
        leads = [run for run in self.runs.values() if run.spec.wave is None]
        for lead in leads:
            number, run = 1, lead
            while self._starts_next(run):
                number += 1
                name = f"{lead.spec.name}{number}"
                if name not in self.runs:
                    plan = RunPlan(lead.spec.pipeline.name, wave=number, wave_of=lead.spec.name)
                    self.open_run(name, plan)
                    self.do(Go(name))
                run = self.runs[name]
                self._cure(run)

    def _take_the_rest(self) -> None:
        """Let days pass, and take what no run has settled, or could not read at its time."""
        self.do(Wait(REST_HOURS))
        # A study may wait for what another pipeline takes in the first turn. What was parked comes in a night later,
        # and of several contents of a resource one each night.
        for turn in ("", "-again", "-once-more", "-at-last"):
            for pipeline in self.pipelines:
                is_late = turn in {"-once-more", "-at-last"}
                left = self.is_left(pipeline) or self._has_waiting(pipeline)
                if not (left and not is_late) and not self._has_due(pipeline):
                    continue
                name = f"{LAST}{turn}-{pipeline}"
                self.open_run(name, RunPlan(pipeline))
                self.say(f"{name}: a run over everything that is there")
                self.do(Go(name))
                self._take_the_waves()

    def _has_waiting(self, pipeline: str) -> bool:
        return any(row.pipeline == pipeline and quiet.is_waiting(row) for row in self.reader.read().arrivals)

    def _has_due(self, pipeline: str) -> bool:
        return any(row.pipeline == pipeline and row.due and not row.taken_as for row in self.reader.read_parked())

    def _send_the_rest(self) -> None:
        """Let a day pass, and route once more: messages may wait for later revisions of their subject."""
        self.do(Wait(24))
        for pipeline in self.pipelines.values():
            of_pipeline = (name for name, run in self.runs.items() if run.spec.pipeline is pipeline and run.ended_well)
            name = next(of_pipeline, None)
            if name is not None:
                self.do(Clear(name, "route"))

    def is_left(self, pipeline: str) -> bool:
        """Return whether there is an object whose latest arrival in a pipeline is not settled, or that has none."""
        latest = {(row.key, row.etag): row for row in self._before.by_generation() if row.pipeline == pipeline}
        settled = {place for place, row in latest.items() if row.disposition and row.reason not in TRANSIENT}
        source = S3Uri.parse(self.pipelines[pipeline].source.uri)
        there = self.outside.s3.buckets[source.bucket].objects.items()
        return any((key, one.etag) not in settled for key, one in there if key.startswith(source.key))

    def _watch(self, actor: Actor, site: Site) -> None:
        """Count a point and check the invariants, if anything was written since the last one."""
        self.coverage.reached[site] += 1
        self._witness(actor, site)
        run = self.runs[actor.name]
        self._read_parts(run)
        if run.states.get("validate") == "success":
            self.facts.validated.add(run.run.key)
        self.check()

    def _read_parts(self, run: DagRun) -> None:
        """Note what each wave of a run's delivery is to take, once the run has cut it."""
        if run.spec.name not in self._cut and run.states.get("buffer") == "success":
            self._cut.add(run.spec.name)
            self.facts.parts |= read_parts(run.quiet)

    def _witness(self, actor: Actor, site: Site) -> None:
        """Note how to come to a point, if few histories are known that do, or only longer ones."""
        if actor.locks:
            self.coverage.locked.add(site)
        if actor.name not in self.history.runs and not actor.name.startswith(LAST):
            return
        step = len(self.played.trace.done) - 1
        self.played.trace.passed.setdefault((actor.name, step), {}).setdefault(site)
        known = self.coverage.witnesses.setdefault(site, [])
        if known and is_aimed(self.history):
            return
        if any(one.trace is self.played.trace and one.run == actor.name for one in known):
            return
        longest = max(known, key=lambda one: len(one.trace.history.steps), default=None)
        if longest and len(known) >= WITNESSES:
            if len(self.history.steps) >= len(longest.trace.history.steps):
                return
            known.remove(longest)
        known.append(Witness(self.played.trace, step, actor.name))

    def check(self) -> None:
        """Check the invariants that hold at every point."""
        version, jobs = self.reader.version(), self.outside.services.calls
        if (version, jobs) == (self._version, self._jobs):
            return
        self._version, self._jobs = version, jobs
        before, now = self._before, self.reader.read()
        self._before = now
        self._say_changes(before, now)
        for invariant in () if self._quietly else AT_EVERY_POINT:
            self._note(list(invariant(self.facts, self.outside.s3, before, now)))

    def _note(self, found: list[Violation]) -> None:
        found = [violation for violation in found if violation.invariant not in self._without]
        known = {violation.text for violation in self.played.violations}
        for violation in found:
            if violation.text not in known:
                self.played.violations.append(violation)
                self.say(f"!! {violation}")
        if found and self._stop:
            raise _Found

    def _say_changes(self, before: Books, now: Books) -> None:
        known = {(row.pipeline, row.arrival_id): row for row in before.arrivals}
        for row in now.arrivals:
            if row.disposition and known.get((row.pipeline, row.arrival_id)) != row:
                self.say(f"    {self.facts.describe(row)}")
        places = {(one.subject_key, one.revision, one.destination) for one in before.queued}
        for one in now.queued:
            if (one.subject_key, one.revision, one.destination) not in places:
                self.say(f"    queued: revision {one.revision} of {one.subject_key} by pipeline {one.pipeline}")

    def say(self, text: str) -> None:
        self.played.timeline.append(f"{self.outside.clock.time:%a %d %b %H:%M:%S} {text}")


class _Found(BaseException):  # the end of a history, which no stage catches
    """A violation was found."""


def _look_away(_actor: Actor, _site: Site) -> None:
    """Check nothing: the history is over."""


def _is_kill(error: BaseException) -> bool:
    return type(error).__name__ == "Killed"


def _lacks_claims(run: DagRun) -> bool:
    """Return whether a run says that its claims were given back, and which task to clear."""
    return any("clear its buffer task" in str(error) for error in run.errors)


def _describe_errors(run: DagRun) -> str:
    return f" ({type(run.errors[-1]).__name__}: {str(run.errors[-1])[:120]})" if run.errors else ""
