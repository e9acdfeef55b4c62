"""A believable history in an empty ledger: ninety nights of three invented sites, to try the console on.

``nightly`` is a live feed; ``archive`` takes an archive of five years backwards, a month in three nights. Arrivals have
rows only where they were held or rejected, as many as the totals say: pages read nothing else. The same seed and time
make the same history::

    python -m airlock_local.sample.history sqlite:////folder/ledger.db
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from airlock.ledger import LedgerError, upgrade
from airlock.ledger.columns import MessageState
from airlock.ledger.database import engine_for, parse_url, writing
from airlock.ledger.decision_tables import reviews
from airlock.ledger.tables import arrivals, census, gates, outbox, releases, run_totals, runs, verdicts, words
from airlock.reasons import SENTENCES
from airlock.records import digest, study_key
from airlock.run import run_key
from airlock_local.sample.sites import SITES

if TYPE_CHECKING:
    from collections.abc import Sequence

NIGHTLY, ARCHIVE = "nightly", "archive"
NIGHTS = 90
STORE = "0123456789abcdef0123456789abcdef"
ROUTES = ("s3://viewer-contracts/studies/", "webhook viewer_hook")
UID_ROOT = "1.2.826.0.1.3680043.8.498."
PATIENT = "DOE^JANE"  # in every key
_CENSUS_MONTHS = 60
_FILES_OF_A_STUDY = 120
_REJECTS = {  # shares of the arrivals of a usual night
    "truncated": 0.0006,
    "missing_study_instance_uid": 0.0004,
    "not_dicom": 0.0009,
    "patient_id_conflict": 0.0003,
    "duplicate_other_content": 0.0005,
}
_BAD_NIGHTS = {61: ("truncated", 0.11), 24: ("access_denied", 0.35), 0: ("patient_id_conflict", 0.021)}  # nights ago
_BRAKE = (
    "35.2 % of the arrivals at one site are access_denied, and the limit is 10 %. Is a key or a role wrong? Nothing "
    "was imported."
)


@dataclass
class _Rows:
    """The rows of a history by table."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    totals: list[dict[str, Any]] = field(default_factory=list)
    arrivals: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    words: list[dict[str, Any]] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    releases: list[dict[str, Any]] = field(default_factory=list)
    census: list[dict[str, Any]] = field(default_factory=list)
    reviews: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Became:
    """What arrivals of a site became."""

    site: str
    disposition: str
    reason: str | None
    number: int


@dataclass(frozen=True)
class _Night:
    """A run that is made up."""

    pipeline: str
    back: int  # nights ago
    started_at: datetime
    window: tuple[datetime, datetime]

    @property
    def run_id(self) -> str:
        kind = "scheduled" if self.pipeline == NIGHTLY else "backfill"
        return f"{kind}__{self.window[0].isoformat()}"

    @property
    def key(self) -> str:
        return run_key(self.pipeline, self.run_id)


def write_history(
    url: str, now: datetime | None = None, nights: int = NIGHTS, seed: int = 7, *, beside_others: bool = False
) -> None:
    """Write the history into an empty ledger, which is created if it does not exist.

    Parameters
    ----------
    url
        The ledger's address.
    now
        The end of the history; the present without it.
    nights
        The number of nights of each pipeline.
    seed
        Decides every number.
    beside_others
        Whether the ledger need not be empty, as that of a benchmark.

    Raises
    ------
    LedgerError
        If it has to be empty and is not.
    """
    upgrade(url)
    end = now or datetime.now(UTC)
    engine = engine_for(parse_url(url))
    try:
        rows = _make(end, nights, random.Random(seed))  # noqa: S311  # no secret
        with writing(engine, "runs") as connection:
            for table, content in (
                *((runs, rows.runs), (run_totals, rows.totals), (arrivals, rows.arrivals), (verdicts, rows.verdicts)),
                *((words, rows.words), (gates, rows.gates), (outbox, rows.messages), (releases, rows.releases)),
                *((census, rows.census), (reviews, rows.reviews)),
            ):
                if not beside_others and connection.execute(select(table).limit(1)).first():
                    raise LedgerError(f"The ledger is not empty: it has {table.name}. Name a new one.")
                if content:
                    connection.execute(insert(table), content)
    finally:
        engine.dispose()


def _make(now: datetime, nights: int, chance: random.Random) -> _Rows:
    rows = _Rows()
    last = (now - timedelta(hours=4)).replace(hour=2, minute=0, second=0, microsecond=0)
    for back in reversed(range(nights)):
        at = last - timedelta(days=back)
        _add_night(rows, _Night(NIGHTLY, back, at, (at - timedelta(days=1), at)), chance)
        taken = nights - 1 - back  # nights of the archive so far
        start = _month_back(last, taken // 3 + 1) + timedelta(days=10 * (taken % 3))
        window = start, start + timedelta(days=10)
        _add_night(rows, _Night(ARCHIVE, back, at - timedelta(hours=6), window), chance)
    _add_census(rows, last, chance)
    _add_questions(rows, last)
    _add_running(rows, now)
    return rows


def _month_back(moment: datetime, months: int) -> datetime:
    number = moment.year * 12 + moment.month - 1 - months
    return moment.replace(year=number // 12, month=number % 12 + 1, day=1, hour=0)


def _add_night(rows: _Rows, night: _Night, chance: random.Random) -> None:
    counts = {site.folder: _count_site(night, place, chance) for place, site in enumerate(SITES)}
    stopped = night.pipeline == NIGHTLY and night.back == 24
    report = _report(night, counts, stopped=stopped)
    ended = night.started_at + timedelta(minutes=40 + report["arrivals"] // 400)
    rows.runs.append(
        {
            "run_key": night.key,
            "pipeline": night.pipeline,
            "run_id": night.run_id,
            "window_start": night.window[0],
            "window_end": night.window[1],
            "started_at": night.started_at,
            "ended_at": ended,
            "state": "open" if stopped else "audited",
            "report": json.dumps(report),
            "listed_until": night.started_at,
        }
    )
    if stopped:
        return
    for site, of_site in counts.items():
        for (disposition, reason), number in of_site.items():
            became = _Became(site, disposition, reason, number)
            _add_total(rows, night, became, ended)
            if disposition in {"held", "quarantined"}:
                _add_files(rows, night, became, ended)
    _add_messages(rows, night, ended, chance)


def _count_site(night: _Night, place: int, chance: random.Random) -> Counter[tuple[str, str | None]]:
    """Return how many arrivals of a site have a disposition and a reason."""
    weekday = 0.45 if night.started_at.weekday() >= 5 else 1.0
    usual = (5200, 3100, 1500)[place % 3] * (6 if night.pipeline == ARCHIVE else 1)
    arrived = max(40, round(chance.gauss(usual, usual * 0.09) * (1.0 if night.pipeline == ARCHIVE else weekday)))
    counts: Counter[tuple[str, str | None]] = Counter()
    for reason, share in _REJECTS.items():
        counts["quarantined", reason] = round(arrived * share * chance.uniform(0.3, 1.8))
    bad = _BAD_NIGHTS.get(night.back) if night.pipeline == NIGHTLY and place == 0 else None
    if bad is not None:
        counts["quarantined", bad[0]] += round(arrived * bad[1])
    counts["duplicate", "duplicate_same_content"] = round(arrived * chance.uniform(0.002, 0.02))
    counts["ignored", "sidecar"] = round(arrived * 0.001) + 2
    # Older holds have been decided on: only those of the last nights are still there.
    if night.pipeline == NIGHTLY and night.back in {0, 3} and place < 2:
        counts["held", "study_incomplete"] = 90 + 17 * place
    counts["released", None] = arrived - sum(counts.values())
    return +counts


def _report(night: _Night, counts: dict[str, Counter[tuple[str, str | None]]], *, stopped: bool) -> dict[str, Any]:
    """Return report.json of a night, whose sums agree with the totals."""
    dispositions, reasons = Counter[str](), Counter[str]()
    for of_site in counts.values():
        for (disposition, reason), number in of_site.items():
            dispositions[disposition] += number
            if reason is not None:
                reasons[reason] += number
    arrived = sum(dispositions.values())
    accepted = dispositions["released"] + dispositions["held"]
    verdicts_ = {"accept": accepted, "quarantine": dispositions["quarantined"]}
    verdicts_ |= {"duplicate": dispositions["duplicate"], "ignore": dispositions["ignored"]}
    held = sorted(
        study_key(_uid(night, site, "held", n)) for site, of_site in counts.items() for n in _held_studies(of_site)
    )
    report = {
        "schema": "airlock.report/1",
        "pipeline": night.pipeline,
        "run_id": night.run_id,
        "run_key": night.key,
        "window": [one.isoformat() for one in night.window],
        "arrivals": arrived,
        "bytes": arrived * 524_288,
        "verdicts": verdicts_,
        "outcomes": {} if stopped else {"imported": accepted},
        "dispositions": dict(dispositions.most_common()),
        "reasons": {code: {"arrivals": n, "sentence": SENTENCES[code]} for code, n in reasons.most_common()},
        "studies": {
            "released": dispositions["released"] // _FILES_OF_A_STUDY,
            "held": len(held),
            "stopped": dispositions["quarantined"] // 20,
        },
        **_known(dispositions, reasons, {site: one["quarantined", "not_dicom"] for site, one in counts.items()}),
        "held": [{"study_key": key, "reason": "study_incomplete"} for key in held],
        "overrides": [],
        "jobs": [] if stopped else _jobs(night, accepted),
        "balanced": True,
        "problems": [],
        "undated": 0,
        "owed": {"waiting": 0, "overdue": 0, "untold": 0, "reasons": {}},
    }
    return report | ({"brake": _BRAKE} if stopped else {})


def _known(dispositions: Counter[str], reasons: Counter[str], not_dicom: dict[str, int]) -> dict[str, Any]:
    """Return what report.json knows of the studies: a manifest declares the numbers of one in three."""
    released = dispositions["released"] // _FILES_OF_A_STUDY
    partial, complete = -(-released // 40), released // 3
    ambiguous, unguarded, contradicted = released // 60, released // 25, released // 150
    matched = released * 4 // 5
    unread = {site: number // 3 for site, number in not_dicom.items() if number // 3}
    states = {"unknown": released - complete - partial, "complete": complete, "partial": partial}
    whose = {"matched": matched, "none": released - matched - ambiguous - unguarded - contradicted}
    whose |= {"ambiguous": ambiguous, "unguarded": unguarded, "contradicted": contradicted}
    short = -(-reasons["study_incomplete"] // _FILES_OF_A_STUDY)
    return {
        "completeness": {word: number for word, number in states.items() if number},
        "declared": {"equal": complete, "fewer": short, "more": released // 90, "findings": []},
        "unattributed": {"files": sum(unread.values()), "sites": unread},
        "patient_match": {word: number for word, number in whose.items() if number},
    }


def _uid(night: _Night, site: str, disposition: str, number: int) -> str:
    """Return a StudyInstanceUID that nobody has."""
    return f"{UID_ROOT}{int(digest(night.key, site, disposition, number, length=12), 16)}"


def _held_studies(counts: Counter[tuple[str, str | None]]) -> range:
    return range(-(-counts["held", "study_incomplete"] // _FILES_OF_A_STUDY))


def _jobs(night: _Night, files: int) -> list[dict[str, Any]]:
    jobs = []
    for number, first in enumerate(range(0, files, 5000)):
        name = digest(night.key, number)
        size = min(5000, files - first)
        facts = {"batch_id": name, "files": size, "bytes": size * 524_288, "job_id": digest("job", name)}
        jobs.append(facts | {"generation": 0, "status": "COMPLETED", "discrepancies": []})
    return jobs


def _add_total(rows: _Rows, night: _Night, became: _Became, at: datetime) -> None:
    head: dict[str, Any] = {"run_key": night.key, "pipeline": night.pipeline, "site": became.site}
    head |= {"disposition": became.disposition, "reason": became.reason}
    counts = {"arrivals": became.number, "bytes": became.number * 524_288}
    rows.totals.append(head | counts | {"said_by": night.key, "said_at": at})


def _add_files(rows: _Rows, night: _Night, became: _Became, at: datetime) -> None:
    """Add the arrivals that are held or rejected, and the gates of their studies if they are held."""
    site, disposition, reason, number = became.site, became.disposition, became.reason, became.number
    for place in range(number):
        uid = _uid(night, site, disposition, place // (_FILES_OF_A_STUDY if disposition == "held" else 8))
        name = {"arrival_id": digest(night.key, site, disposition, reason, place), "pipeline": night.pipeline}
        key = study_key(uid) if reason not in {"not_dicom", "missing_study_instance_uid"} else None
        rows.arrivals.append(
            name
            | {"run_key": night.key, "bucket": "hospital-archive", "etag": digest(place), "size": 524_288, "site": site}
            | {"key": f"pacs/{site}/{PATIENT}/{night.back:03}/{reason}/{place:05}.dcm", "generation": 1}
            | {"last_modified": night.started_at - timedelta(hours=6), "claimed_at": night.started_at}
        )
        verdict = "accept" if disposition == "held" else "quarantine"
        of_study = {"study_key": key, "study_instance_uid": uid if key else None}
        rows.verdicts.append(name | of_study | {"verdict": verdict, "datastore_id": STORE})
        facts = {"number": 1, "said_by": night.key, "disposition": disposition, "stage": "validate", "reason": reason}
        rows.words.append(name | facts | {"detail": "PatientID", "study_key": key, "settled_at": at})
    if disposition == "held":
        for study in range(-(-number // _FILES_OF_A_STUDY)):
            subject = _uid(night, site, "held", study)
            rows.gates.append(
                {"subject": subject, "datastore_id": STORE, "run_key": night.key, "subject_key": study_key(subject)}
                | {"gate": "hold", "reason": reason, "decided_at": at}
            )


def _add_messages(rows: _Rows, night: _Night, at: datetime, chance: random.Random) -> None:
    """Add the messages of the last nights: to one destination some were given up tonight."""
    if night.pipeline != NIGHTLY or night.back > 14:
        return
    for number in range(45 if night.back else 32):
        for route in ROUTES:
            subject = digest(night.key, "message", number, length=16)
            failed = not night.back and route == ROUTES[1] and number < 14
            waits = not night.back and route == ROUTES[1] and 14 <= number < 20
            state = MessageState.FAILED if failed else MessageState.PENDING if waits else MessageState.SENT
            sent_at = at + timedelta(seconds=chance.randrange(600))
            rows.messages.append(
                {"pipeline": NIGHTLY, "destination": route, "subject_key": subject, "run_key": night.key, "revision": 1}
                | {"content_digest": digest(subject), "payload_uri": f"s3://workspace/{subject}.json"}
                | {"state": state.value, "attempts": 8 if failed else 1, "created_at": at, "queued_at": at}
                | {"sent_at": sent_at if state is MessageState.SENT else None}
                | {"next_attempt_at": at + timedelta(minutes=10), "last_error": "http_503" if failed or waits else None}
            )
    if not night.back:
        subject = digest(night.key, "unrouted", length=16)
        rows.releases.append(
            {"subject_key": subject, "pipeline": NIGHTLY, "datastore_id": STORE, "revision": 1, "run_key": night.key}
            | {"content_digest": digest(subject), "payload_uri": f"s3://workspace/{subject}.json", "released_at": at}
            | {"rules": "rules", "routes": 0}
        )


def _add_census(rows: _Rows, last: datetime, chance: random.Random) -> None:
    """Add a census of the archive, of which the nights have taken a part, and one of the live feed."""
    counted = last - timedelta(days=2)
    for place, site in enumerate(SITES):
        usual = (5200, 3100, 1500)[place % 3]
        for back in range(_CENSUS_MONTHS):
            month = f"{_month_back(last, back + 1):%Y-%m}"
            objects = round(usual * 18 * chance.uniform(1.0, 1.06))
            rows.census.append(_census_row(ARCHIVE, site.folder, month, objects, counted))
        taken: Counter[str] = Counter()
        for total in rows.totals:
            if total["pipeline"] == NIGHTLY and total["site"] == site.folder and total["said_at"] < counted:
                taken[f"{total['said_at'] - timedelta(hours=4):%Y-%m}"] += total["arrivals"]
        rows.census += [_census_row(NIGHTLY, site.folder, month, n + 37 * place, counted) for month, n in taken.items()]


def _census_row(pipeline: str, site: str, month: str, objects: int, at: datetime) -> dict[str, Any]:
    where = {"pipeline": pipeline, "source_uri": "s3://hospital-archive/pacs/", "site": site, "month": month}
    return where | {"objects": objects, "bytes": objects * 524_288, "method": "listing", "counted_at": at}


def _add_questions(rows: _Rows, last: datetime) -> None:
    """Add two reviews that wait."""
    for gate in rows.gates[-2:]:
        rows.reviews.append(
            {name: gate[name] for name in ("datastore_id", "subject", "subject_key", "run_key", "reason")}
            | {"pipeline": NIGHTLY, "site": SITES[0].folder, "seen": digest(gate["subject"]), "question": "{}"}
            | {"assignee": "archive team", "asked_at": last + timedelta(hours=1)}
        )


def _add_running(rows: _Rows, now: datetime) -> None:
    """Add a run of the archive that has not been audited."""
    night = _Night(ARCHIVE, -1, now - timedelta(minutes=47), (now - timedelta(days=2000), now - timedelta(days=1990)))
    rows.runs.append(
        {"run_key": night.key, "pipeline": ARCHIVE, "run_id": night.run_id, "window_start": night.window[0]}
        | {"window_end": night.window[1], "started_at": night.started_at, "ended_at": None, "state": "running"}
        | {"report": None, "listed_until": night.started_at + timedelta(minutes=4)}
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a history and say where; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m airlock_local.sample.history", description=write_history.__doc__)
    parser.description = "Write an invented history of ninety nights into an empty ledger."
    parser.add_argument("url", metavar="URL", help="of the ledger, without a password: sqlite:////folder/ledger.db")
    parser.add_argument("--nights", type=int, default=NIGHTS)
    options = parser.parse_args(arguments)
    try:
        write_history(options.url, nights=options.nights)
    except LedgerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{options.nights} nights of {NIGHTLY} and {ARCHIVE} are written.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
