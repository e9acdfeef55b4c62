"""No stage holds more rows at once because a delivery is larger: the rows of all frames that are alive are counted."""

from __future__ import annotations

import gc
import json
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical import parse as parsing
from airlock.clinical import validate as validating
from airlock.clinical.audit import audit
from airlock.clinical.normalize import normalize
from airlock.clinical.parse import parse
from airlock.clinical.validate import validate
from airlock.run import Run
from airlock.stages.buffer import buffer
from airlock.storage import spool
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import FrameFile, Spool
from airlock.storage.workspace import DatasetWriter
from tests.unit.airlock.clinical.books import Store, ended, ndjson, observation, patient, pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.unit.airlock.world import World

ROWS = 30  # in a partition
PER_PATIENT = 5


class Counter:
    """The most rows that were alive at one time, as seen whenever rows are set aside, taken up or written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._calls = 0
        for place, name in ((Spool, "add"), (Spool, "partition"), (FrameFile, "add"), (DatasetWriter, "add")):
            monkeypatch.setattr(place, name, self._counting(getattr(place, name), ends_part=place is DatasetWriter))

    def _counting(self, method: Callable[..., Any], *, ends_part: bool) -> Callable[..., Any]:
        def call(store: Any, *arguments: Any) -> Any:
            found = method(store, *arguments)
            if ends_part:
                store.end_part()  # 50,000 rows wait for one, whatever the delivery
            self._calls += 1
            if self._calls % 5 == 0:  # to look through all objects takes its time
                alive = (each for each in gc.get_objects() if type(each) is pl.DataFrame)
                self.most = max(self.most, sum(frame.height for frame in alive))
            return found

        return call

    def of(self, stage: Callable[[], object]) -> int:
        """Run a stage and return its most rows."""
        gc.collect()
        gc.freeze()  # what was there before is not looked at again and again
        self.most = 0
        stage()
        gc.unfreeze()
        return self.most


def delivery(patients: int) -> bytes:
    """Return one file; a tenth of the Observations come twice, and a tenth refer to nobody."""
    lines: list[Any] = [patient(f"p{number}") for number in range(patients)]
    for number in range(patients * (PER_PATIENT - 1)):
        whose = f"p{number % patients}" if number % 10 else "nobody"
        lines.append(observation(f"o{number}", whose))
        lines += lines[-1:] if number % 10 == 5 else []
    return ndjson(lines)


def most_rows(world: World, counter: Counter, patients: int) -> dict[str, int]:
    """Return the most rows that each stage has held of a delivery."""
    name = f"of-{patients}"
    line = pipeline(healthlake={"bytes_per_file": 4_000}, audit={"read_back_sample": 5, "manifest_wait_seconds": 0})
    run = Run(line, name, None, S3Uri("archive", f"in/{name}/"), world.s3, world.ledger)
    body = delivery(patients)
    world.put(f"s3://archive/in/{name}/a.ndjson", body)
    # The store holds what was sent: otherwise everything is held, and read again after 14 seconds.
    sent = map(json.loads, body.splitlines())
    store = Store({f"{one['resourceType']}/{one['id']}": one for one in sent})
    for shard in buffer(run).shards:
        parse(run, shard)
    found = {
        "validate": counter.of(lambda: validate(run, None)),
        "normalize": counter.of(lambda: normalize(run, run.pipeline.healthlake)),
    }
    ended(world, run)
    return found | {"audit": counter.of(lambda: audit(run, store))}


def test_five_times_the_delivery_takes_less_than_thrice_the_rows_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "PARTITION_ROWS", ROWS)
    monkeypatch.setattr(validating, "PARTITION_ROWS", ROWS)
    monkeypatch.setattr(parsing, "_MIB", 1024)  # of a chunk of resources
    counter = Counter(monkeypatch)
    small, large = most_rows(world, counter, 24), most_rows(world, counter, 120)
    for stage, rows in large.items():
        assert rows < 3 * small[stage], f"{stage} holds {rows} rows, and {small[stage]} of a fifth of the delivery"
