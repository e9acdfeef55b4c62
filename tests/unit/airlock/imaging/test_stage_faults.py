"""A campaign of faults on staging: whatever S3 does and who is killed, no file is lost, doubled or without a reason.

Of a hundred copies about fifteen go wrong: busy answers, connections that are reset before or behind the copy, cut or
slow answers, errors under the status 200. Meanwhile objects have changed or go, credentials expire, and workers that
stage are killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from airlock.imaging.import_ import check_prefix
from airlock.imaging.normalize import normalize
from airlock.imaging.stage import find_staged, stage
from airlock.records import VERDICTS
from tests.servers import copying_s3
from tests.servers.copying_s3 import connect_as_role, refusal
from tests.servers.storing_s3 import storing_s3
from tests.unit.airlock.imaging.batches import read_batches
from tests.unit.airlock.imaging.test_stage import ODD
from tests.unit.airlock.world import BUCKETS, World, dicom, pipeline, verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import polars as pl

    from airlock.ledger import Ledger
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from tests.servers.copying_s3 import Fault, Handler
    from tests.servers.storing_s3 import StoringS3

# Keys that S3 takes, and that servers and libraries like to change.
HOSTILE = [*ODD, "a\nb", "\x01\x7f", "./.", "//", "a//", "ends in /", "+%2B+", "\U0001f600", "x" * 1000, "é", "e\u0301"]


@dataclass(frozen=True)
class Size:
    """How large a campaign is."""

    files: int
    per_batch: int
    changed: int  # objects that are replaced before they are copied
    gone: int  # objects that are deleted before; as many are deleted while others are copied
    kills: int


SMALL = Size(files=700, per_batch=300, changed=70, gone=20, kills=1)
GREAT = Size(files=20_000, per_batch=4_000, changed=1_000, gone=200, kills=6)


def slow(handler: Handler) -> None:
    """Make the copy, and give the answer in two parts with a pause between them."""
    if code := handler.find_refusal():
        return handler.refuse(*code)
    body = handler.make().encode()
    handler.begin(200, len(body))
    handler.wfile.write(body[:20])
    handler.wfile.flush()
    Event().wait(0.2)
    handler.wfile.write(body[20:])
    return None


FAULTS: list[Fault] = [refusal(503, "SlowDown")] * 5 + [copying_s3.reset] * 3 + [copying_s3.reset_once_made] * 2
FAULTS += [refusal(200, "InternalError"), refusal(200, "SlowDown"), copying_s3.cut, copying_s3.empty, slow]


@dataclass
class Campaign:
    """What goes wrong with the copies, by their number."""

    server: StoringS3
    chance: Random
    expires_at: float = float("inf")
    kills_at: float = float("inf")
    worker: subprocess.Popen[bytes] | None = None
    going: list[str] = field(default_factory=list)  # keys that are still to be deleted

    def fault(self, number: int) -> Fault | None:
        with self.server.lock:
            if self.worker is not None and number >= self.kills_at:
                self.worker.kill()
            if self.going and number % 7 == 0:
                self.server.memory.delete_object(Bucket="archive", Key=self.going.pop())
            drawn = self.chance.randrange(100)
        if number >= self.expires_at and copying_s3.is_signed_by(self.server, number, "testing"):
            return refusal(400, "ExpiredToken")
        return FAULTS[drawn] if drawn < len(FAULTS) else None

    def kill_a_worker(self, ledger_url: str, changes: dict[str, Any], batch: Batch, after: int) -> None:
        """Let a worker stage a batch, and kill it when it has asked for so many copies."""
        self.kills_at = len(self.server.requests) + after
        command = [sys.executable, "-m", "tests.unit.airlock.imaging.staging_worker"]
        self.worker = subprocess.Popen(
            [*command, self.server.endpoint, ledger_url, json.dumps(changes), batch.batch_id]
        )
        assert self.worker.wait() == -9
        self.worker = None


def deliver(server: StoringS3, run: Run, size: Size) -> list[str]:
    """Store objects, give the run verdicts that accept them, and return their keys."""
    names = [*HOSTILE, *(f"{n % 17}/{n:05}.dcm" for n in range(size.files - len(HOSTILE)))]
    rows = []
    for number, name in enumerate(names):
        key = f"in/{name}"
        etag = server.store("archive", key, body_of(key))
        study, series = f"1.{number // 500}", f"1.{number // 500}.{number // 100}"
        uids = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.{number}"}
        rows.append(dicom("", key=key, etag=etag, size=len(body_of(key)), **uids))
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    run.workspace.write("verdicts", VERDICTS, verdicts(*rows))
    return [row["key"] for row in rows]


def body_of(key: str) -> bytes:
    return f"content of {key}".encode()


def expected_below(rows: pl.DataFrame) -> dict[str, bytes]:
    """Return what is to lie below the batches' prefixes, and nothing else."""
    return {row["staged_key"]: body_of(row["key"]) for row in rows.iter_rows(named=True) if row["reason"] is None}


def check_reasons(rows: pl.DataFrame, changed: Sequence[str], gone: Sequence[str], going: Sequence[str]) -> None:
    """Each file has the one reason that is right for it, or none."""
    reasons = dict(rows.select("key", "reason").iter_rows())
    assert {key for key, reason in reasons.items() if reason == "object_changed"} == set(changed)
    vanished = {key for key, reason in reasons.items() if reason == "object_gone"}
    assert set(gone) <= vanished <= {*gone, *going}
    assert set(reasons.values()) == {None, "object_changed", "object_gone"}


@pytest.mark.proof
@pytest.mark.parametrize("size", [SMALL, GREAT])
def test_nothing_is_lost_doubled_or_without_a_reason(ledger: Ledger, tmp_path: Path, size: Size) -> None:
    changes = {"limits": {"files_per_job": size.per_batch}}
    with storing_s3(*BUCKETS) as server:
        s3, access_keys = connect_as_role(server)
        run = World(s3, ledger).run(line=pipeline(**changes))
        keys = deliver(server, run, size)
        batches = normalize(run)
        shuffled = Random(16).sample(keys, len(keys))
        changed, gone = shuffled[: size.changed], shuffled[size.changed : size.changed + size.gone]
        going = shuffled[size.changed + size.gone :][: size.gone]
        for key in changed:
            server.store("archive", key, b"other content")
        for key in gone:
            server.memory.delete_object(Bucket="archive", Key=key)

        campaign = Campaign(server, Random(17))
        server.fault = campaign.fault
        for number in range(size.kills):
            batch = batches[number % len(batches)]
            campaign.kill_a_worker(f"sqlite:///{tmp_path}/ledger.db", changes, batch, after=40 + 67 * number)
        campaign.going = list(going)
        campaign.expires_at = len(server.requests) + size.per_batch // 2
        staged = [stage(run, batch.batch_id) for batch in batches]

        rows = read_batches(run)
        assert Counter(rows["key"]) == Counter(keys)
        check_reasons(rows, changed, gone, going)
        assert server.bodies("work", "staging/") == expected_below(rows)
        assert sum(batch.files for batch in staged) == rows["reason"].null_count()
        assert access_keys == ["testing", "renewed1"]
        copies = Counter(server.copies)
        for batch in batches:
            check_prefix(run, find_staged(run, batch.batch_id))  # as import does, before it starts a job
            assert stage(run, batch.batch_id) in staged
        assert server.copies == copies
