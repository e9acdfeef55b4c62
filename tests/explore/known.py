"""Histories that once broke the books, as short as they get. Each is a finding of between-runs tests by its number."""

from __future__ import annotations

from dataclasses import replace

from tests.explore.history import (
    Clear,
    GiveBack,
    GiveUp,
    Go,
    History,
    Lose,
    Reconcile,
    Remove,
    RunPlan,
    Stall,
    Step,
    Upload,
    Wait,
)
from tests.explore.waves import plan_waves

_FIRST, _RECORDS = RunPlan("first"), RunPlan("records")
_A, _B = RunPlan("first", "in/a/"), RunPlan("first", "in/b/")


def _images(name: str, runs: dict[str, RunPlan], *steps: Step) -> tuple[str, History]:
    return name, History("known", runs, steps)


def _awaited(name: str, first: str, second: str, until: str) -> tuple[str, History]:
    """Return a history in which the second delivery is read while the run of the first waits before a stage."""
    uploads = Upload("fhir/a/1.ndjson", first), Upload("fhir/b/1.ndjson", second)
    runs = {"A": RunPlan("records", "fhir/a/"), "B": _RECORDS}
    return _images(name, runs, *uploads, Go("A", until=until), Go("B"), Go("A"))


def _split(name: str, *steps: Step) -> tuple[str, History]:
    """Return a history of a study whose two files are taken by two waves."""
    uploads = Upload("in/x/a/1.dcm", "ct 1.1.1"), Upload("in/x/b/1.dcm", "ct 1.1.2")
    return name, History("small waves", plan_waves("whole", 2), (*uploads, *steps))


def _night(start: str, end: str) -> RunPlan:
    return RunPlan("first", window=(f"2026-10-{start}+00:00", f"2026-10-{end}+00:00"), how="scheduled")


_NIGHTS = {
    "one": _night("21T02:00:00", "22T02:00:00"),
    "two": _night("22T02:00:00", "23T02:00:00"),
    "three": _night("23T02:00:00", "24T02:00:00"),
}

KNOWN: dict[str, History] = dict(
    [
        _images(
            "a file quarantined by a run that still imports holds the study",
            {"A": _A, "B": _B},
            Upload("in/a/001.dcm", "bad 1.1.1"),
            Upload("in/a/002.dcm", "ct 2.1.1"),
            Upload("in/b/003.dcm", "ct 1.2.1"),
            Go("A", until="normalize"),
            Go("B"),
        ),
        _images(
            "a file that a killed audit has not decided on goes into no contract",
            {"A": _A, "B": _B},
            Upload("in/a/001.dcm", "noframes 1.1.1"),
            Upload("in/b/003.dcm", "ct 1.2.1"),
            Go("A", until="audit"),
            Go("A", 30, fatal=True),
            Go("B"),
            Clear("A"),
        ),
        _images(
            "an image that is deleted between its header and its copy holds its study",
            {"A": _FIRST},
            Upload("in/b/000.dcm", "ct 1.1.1"),
            Upload("in/b/002.dcm", "ct 1.2.3"),
            Go("A", until="stage"),
            Remove("in/b/002.dcm"),
        ),
        _images(
            "an unreadable file holds the study of its neighbours",
            {"A": _FIRST},
            Upload("in/a/001.dcm", "ct 1.1.1"),
            Upload("in/a/002.dcm", "cut 1.1.2"),
            Go("A"),
        ),
        _images(
            "an unreadable file holds its study when its run is audited after another study came into its folder",
            {"A": _A, "B": _A},
            Upload("in/a/001.dcm", "ct 1.1.1"),
            Upload("in/a/002.dcm", "cut 1.1.2"),
            Go("A"),
            Upload("in/a/003.dcm", "ct 2.1.1"),
            Go("B"),
            Clear("A", "audit"),
        ),
        _images(
            "a file quarantined by another pipeline of the data store holds the study",
            {"A": RunPlan("second", "in/a/"), "B": _B},
            Upload("in/a/001.dcm", "bad 1.1.1"),
            Upload("in/b/002.dcm", "ct 1.1.2"),
            Go("A"),
            Go("B"),
        ),
        _images(
            "a release stands when its run is audited again after a bad sibling came",
            {"A": _A, "B": _B},
            Upload("in/a/001.dcm", "ct 1.1.1"),
            Upload("in/b/002.dcm", "bad 1.1.2"),
            Go("A"),
            Go("B"),
        ),
        _images(
            "a cleared audit names nothing that a later run holds",
            {"A": _A, "B": _B},
            Upload("in/a/001.dcm", "ct 1.1.1"),
            Upload("in/b/002.dcm", "noframes 1.1.2"),
            Go("A"),
            Go("B"),
            Clear("A", "audit"),
        ),
        _images(
            "a cleared audit releases nothing that an unread file holds",
            {"A": _A, "B": _B},
            Upload("in/a/001.dcm", "ct 1.1.1"),
            Upload("in/b/002.dcm", "ct 1.2.2"),
            Upload("in/b/003.dcm", "empty 1.2.3"),
            Go("A"),
            Go("B"),
            Clear("A", "audit"),
        ),
        _images(
            "two runs that import into one series at once release it whole",
            {"A": _A, "B": _B},
            Upload("in/a/001.dcm", "ct 1.1.1"),
            Upload("in/b/002.dcm", "ct 1.1.2"),
            Go("A", until="audit"),
            Go("B"),
        ),
        _images(
            "a study in flight until the publication was over is published by the next run",
            {"A": RunPlan("published", "in/a/"), "B": RunPlan("mirror", "in/b/")},
            Upload("in/a/001.dcm", "ct 1.1.1"),
            Upload("in/b/002.dcm", "ct 1.1.1"),
            Go("A", until="normalize"),
            Go("B", until="audit"),
            Go("A", until="fhir.audit"),
            Go("B"),
        ),
        _images(
            "a publication that waits does not write over what another run has released meanwhile",
            {"A": RunPlan("published", "in/a/"), "B": RunPlan("published", "in/b/")},
            Upload("in/a/001.dcm", "ct 1.1.1"),
            Upload("in/b/002.dcm", "ct 1.2.1"),
            Go("A", at="fhir.normalize s3.put_object imaging/publication.py"),
            Go("B"),
        ),
        _images(
            "a publication that waits does not write over what another run has published and not released yet",
            {"A": RunPlan("published", "in/a/"), "B": RunPlan("published", "in/b/")},
            Upload("in/a/001.dcm", "ct 1.1.1"),
            Upload("in/b/002.dcm", "ct 1.2.1"),
            Go("A", at="fhir.normalize s3.put_object imaging/publication.py"),
            Go("B", at="fhir.audit ledger.at_once imaging/settle.py"),
            Go("A"),
            Go("B"),
        ),
        _images(
            "a study that a failed publication took over from an earlier run is published by the next run",
            {
                "A": RunPlan("published", "in/a/"),
                "B": RunPlan("mirror", "in/b/"),
                "C": RunPlan("published"),
            },
            Upload("in/a/001.dcm", "ct 1.1.1"),
            Upload("in/b/002.dcm", "ct 1.1.1"),
            Go("A", until="normalize"),
            Go("B", until="audit"),
            Go("A", until="fhir.audit"),
            Go("B"),
            Go("A"),
            Wait(72),
            Go("C", at="fhir.normalize s3.get_object imaging/publication.py", fatal=True),
            GiveUp("C"),
            Clear("C"),
        ),
        _images(
            "a publication that was killed names no file that another run has held meanwhile",
            {
                "A": RunPlan("published", "in/a/"),
                "B": RunPlan("published"),
                "R": RunPlan("published", finds=True),
            },
            Upload("in/a/1.dcm", "ct 1.1.1"),
            Upload("in/b/1.dcm", "noframes 1.1.2"),
            Go("A"),
            Lose(0),
            Reconcile("published"),
            Go("R", at="fhir.normalize ledger.claimed_resources imaging/publication.py", fatal=True),
            Go("B"),
            Clear("R"),
        ),
        _images("what is released is queued", {"A": _FIRST}, Upload("in/a/001.dcm", "ct 1.1.1"), Go("A")),
        _images(
            "a night that is cleared late does not write its older content",
            {"A": _RECORDS, "B": _RECORDS},
            Upload("fhir/1.ndjson", "fhir p1=a"),
            Go("A", until="parse"),
            Wait(24),
            Upload("fhir/2.ndjson", "fhir p1=b"),
            Go("B"),
        ),
        _awaited(
            "a resource whose Patient an undecided run may bring comes again by itself",
            *("fhir o1=a p1=a p2=a", "fhir a1=a o1=a o2/p2=c"),
            until="validate",
        ),
        _awaited(
            "a resource whose Patient another run has claimed comes again by itself",
            *("fhir p1=a", "fhir a1=a"),
            until="import",
        ),
        _images(
            "a refused Patient holds its patient in other runs until a redrive brings it",
            {
                "A": _RECORDS,
                "B": _RECORDS,
                "C": _RECORDS,
                "D": RunPlan("records", reasons=("rejected", "patient_held")),
            },
            Upload("fhir/1.ndjson", "fhir p1=a"),
            Go("A"),
            Wait(24),
            Upload("fhir/2.ndjson", "fhir o1=a p1=d p2=d o2/p2=a"),
            Go("B"),
            Wait(24),
            Upload("fhir/3.ndjson", "fhir a1=a"),
            Go("C"),
            Wait(24),
            Upload("fhir/2.ndjson", "fhir o1=a p1=b p2=a o2/p2=a"),
            Go("D"),
        ),
        _images(
            "an object that is owed comes again after older content of its key was settled",
            {"A": _RECORDS, "B": _RECORDS, "C": _RECORDS},
            Upload("fhir/0.ndjson", "fhir p1=a"),
            Go("A", until="import"),
            Wait(24),
            Upload("fhir/1.ndjson", "fhir p1=b"),
            Go("B", until="audit"),
            Wait(24),
            Upload("fhir/1.ndjson", "fhir o1=a p1=c"),
            Go("C"),
            Go("B"),
            Go("A"),
        ),
        _images(
            "of equal copies in one delivery the newest counts",
            {"A": _RECORDS, "B": _RECORDS},
            Upload("fhir/0.ndjson", "fhir p1=b"),
            Go("A"),
            Wait(24),
            Upload("fhir/1.ndjson", "fhir p1=a", 36.0),
            Upload("fhir/2.ndjson", "fhir p1=a"),
            Go("B"),
        ),
        _images(
            "content that returns under its key is imported again",
            {"A": _RECORDS, "B": _RECORDS, "C": _RECORDS},
            Upload("fhir/1.ndjson", "fhir p1=a"),
            Go("A"),
            Wait(24),
            Upload("fhir/1.ndjson", "fhir p1=b"),
            Go("B"),
            Wait(24),
            Upload("fhir/1.ndjson", "fhir p1=a"),
            Go("C"),
        ),
        (
            "the night after two that failed before listing takes what they left",
            History(
                "known",
                _NIGHTS,
                (
                    Wait(38.1),
                    Go("one"),
                    Wait(4),
                    Upload("in/001.dcm", "ct 1.1.1"),
                    Wait(20),
                    Go("two", 1, fatal=True),
                    GiveUp("two"),
                    Wait(24),
                    Go("three"),
                ),
                lookback_hours=0.0,
                claims_only=True,
                promised=("in/001.dcm",),
            ),
        ),
        (
            "a file put below its day in the forenoon is taken by one night",
            History(
                "known",
                _NIGHTS,
                (
                    Wait(38.1),
                    Go("one"),
                    Wait(8),
                    Upload("in/2026/10/22/001.dcm", "ct 1.1.1"),
                    Wait(16),
                    Go("two"),
                    Wait(24),
                    Go("three"),
                ),
                key_dates=True,
                claims_only=True,
                promised=("in/2026/10/22/001.dcm",),
            ),
        ),
        (
            "a night takes what two nights have left whose waves never began",
            History(
                "known",
                {name: replace(plan, pipeline="waves") for name, plan in _NIGHTS.items()}
                | {f"three{wave}": RunPlan("waves", wave=wave, wave_of="three") for wave in (2, 3)},
                (
                    Wait(15),
                    *(Upload(f"in/{number}.dcm", f"ct 1.1.{number}") for number in range(1, 6)),
                    Wait(23.1),
                    Go("one"),
                    Wait(24),
                    Go("two"),
                    Wait(24),
                    *map(Go, ("three", "three2", "three3")),
                ),
                lookback_hours=0.0,
                claims_only=True,
                promised=tuple(f"in/{number}.dcm" for number in range(1, 6)),
            ),
        ),
        _images(
            "nothing counts of a file that is replaced before its run decides",
            {"A": _RECORDS, "B": _RECORDS},
            Upload("fhir/0.ndjson", "fhir o1=d o2/p2=b p2=a"),
            Upload("fhir/1.ndjson", "fhir o1=a o2/p2=a"),
            Go("A", until="validate"),
            Wait(24),
            Upload("fhir/0.ndjson", "fhir a1=c o2/p2=a p2=b"),
            Go("B"),
            Wait(24),
            Go("A"),
        ),
        (
            "an unreadable file holds the study that its wave brought, until it is mended",
            History(
                "known",
                {
                    "A": replace(_NIGHTS["one"], pipeline="whole"),
                    "A2": RunPlan("whole", wave=2, wave_of="A"),
                    "B": replace(_NIGHTS["two"], pipeline="whole"),
                },
                (
                    Wait(15),
                    Upload("in/x/b/10.dcm", "ct 1.1.11"),
                    Upload("in/x/b/11.dcm", "cut 2.1.12"),
                    Upload("in/x/b/12.dcm", "ct 2.1.13"),
                    Wait(24),
                    Go("A"),
                    Go("A2"),
                    Upload("in/x/b/11.dcm", "ct 2.1.12"),
                    Wait(24),
                    Go("B"),
                ),
                lookback_hours=0.0,
            ),
        ),
        _split("a study in two waves is released once", Go("A"), Go("A2")),
        _split("a study waits for an earlier wave that reads later", Go("A", until="parse"), Go("A2"), Go("A")),
        _split("a study waits no longer for a wave that never begins and that another run reads", Go("A"), Stall("A")),
        _split("a study waits no longer for a wave that an operator gives up", Go("A"), Stall("A"), GiveBack("A2")),
    ]
)
