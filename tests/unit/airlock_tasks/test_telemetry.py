"""Metrics: what a run's audit found, what is open, how long a stage took; nothing that could name a patient."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ledger import Job, Ledger
from airlock.ledger.gates import GATES
from airlock.reasons import Reason
from airlock.records import Disposition, study_key
from airlock_tasks import telemetry
from airlock_tasks.telemetry import note_ledger, note_run, timed
from tests.servers.ledger import new_ledger
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, begin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPORT: dict[str, Any] = {
    "pipeline": NIGHTLY,
    "arrivals": 12,
    "bytes": 3_400,
    "balanced": True,
    "reading": {"requests": 13},
    "dispositions": {"released": 10, "quarantined": 2},
    "reasons": {"truncated": {"arrivals": 2, "sentence": "Ask the sender."}},
}


class Sink:
    """What was written, by name and by the values of the tags but for the pipeline's."""

    def __init__(self) -> None:
        self.gauges: dict[str, dict[str, float]] = defaultdict(dict)
        self.timings: list[tuple[str, timedelta, dict[str, str]]] = []

    def gauge(self, name: str, value: float, tags: dict[str, str]) -> None:
        assert tags["pipeline"] == NIGHTLY
        self.gauges[name][",".join(value for tag, value in tags.items() if tag != "pipeline")] = value

    def timing(self, name: str, value: timedelta, tags: dict[str, str]) -> None:
        self.timings.append((name, value, tags))


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", address := new_ledger(tmp_path / "ledger.db"))
    return address


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.open(url) as opened:
        yield opened


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Sink:
    sink = Sink()
    monkeypatch.setattr(telemetry, "Stats", sink)
    return sink


@pytest.mark.usefixtures("listener")
def test_a_runs_numbers_are_those_of_its_report(sink: Sink) -> None:
    note_run(REPORT)
    assert sink.gauges["airlock.run.arrivals"] == {"delivery": 12}
    assert sink.gauges["airlock.run.bytes"] == {"delivery": 3_400}
    assert sink.gauges["airlock.run.requests"] == {"delivery": 13}
    assert sink.gauges["airlock.run.balanced"] == {"delivery": 1}
    assert sum(sink.gauges["airlock.run.dispositions"].values()) == 12
    assert sink.gauges["airlock.run.reasons"]["delivery,truncated"] == 2


@pytest.mark.usefixtures("listener")
def test_what_a_run_does_not_have_is_written_as_0_since_gauges_keep_their_last_value(sink: Sink) -> None:
    note_run(REPORT | {"balanced": False})
    assert sink.gauges["airlock.run.balanced"] == {"delivery": 0}
    assert sink.gauges["airlock.run.dispositions"].keys() == {f"delivery,{word.value}" for word in Disposition}
    assert sink.gauges["airlock.run.reasons"].keys() == {f"delivery,{reason.value}" for reason in Reason}
    assert sink.gauges["airlock.run.dispositions"]["delivery,held"] == 0


@pytest.mark.usefixtures("listener")
def test_a_redrive_does_not_take_the_place_of_a_delivery(sink: Sink) -> None:
    note_run(REPORT | {"balanced": False})
    note_run(REPORT | {"redrive": {"why": "cured"}})
    assert sink.gauges["airlock.run.balanced"] == {"delivery": 0, "redrive": 1}


def test_a_stage_is_timed_also_if_it_fails(sink: Sink) -> None:
    with pytest.raises(ValueError, match="broken"), timed(NIGHTLY, "parse"):
        raise ValueError("broken")
    ((name, took, tags),) = sink.timings
    assert (name, tags) == ("airlock.stage.duration", {"pipeline": NIGHTLY, "stage": "parse"})
    assert took >= timedelta()


@pytest.mark.usefixtures("listener")
class TestWhatIsOpen:
    def test_holds_and_jobs_are_counted_with_the_age_of_the_oldest(self, ledger: Ledger, sink: Sink) -> None:
        begin(ledger, "a")
        row = ("1.2.3", study_key("1.2.3"), "hold", "study_incomplete")
        ledger.record_gates(STORE, "a", pl.DataFrame([row], schema=GATES, orient="row"))
        ledger.record_job(Job("batch", 0, "a", "token", "job", "IN_PROGRESS"), STORE)
        note_ledger(NIGHTLY)
        assert sink.gauges["airlock.held.subjects"] == {"": 1}
        assert 0 <= sink.gauges["airlock.held.oldest_hours"][""] < 1
        assert sink.gauges["airlock.jobs.open"] == {"": 1}
        assert sink.gauges["airlock.owed.objects"] == {"": 0}
        assert sink.gauges["airlock.outbox.given_up.messages"] == {"": 0}
        assert sink.gauges["airlock.parked.resources"] == {"": 0}
        assert sink.gauges["airlock.edge.untold"] == {"": 0}

    def test_a_ledger_that_refuses_fails_no_run(
        self, sink: Sink, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", f"sqlite:///{tmp_path / 'no-ledger.db'}")
        note_ledger(NIGHTLY)
        assert sink.gauges == {}
        assert "are not written: the ledger refuses them (Ledger" in caplog.text


def test_nobody_listens_so_nothing_is_asked_or_written(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", "postgresql://nobody@127.0.0.1:1/none")
    note_ledger(NIGHTLY)
    note_run(REPORT)
    assert sink.gauges == {}
