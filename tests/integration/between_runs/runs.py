"""Runs over one archive: by hand, nightly up to last night, and killed at a request; objects put on an earlier day."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.client import BaseClient

from airlock.records import Window
from airlock.run import run_key
from tests.chain import Chain, pipeline
from tests.dicom_files import ct, sop_uid
from tests.servers.objects import date_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.pipelines import Pipeline
    from tests.chain import Place

DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)

BAD = ct(1, 1, 2, PatientID="P" * 300)  # its UIDs are read, then it is quarantined


def find_last_night() -> datetime:
    """Return the moment of the newest run by the default cron; asked late, since there may be one while tests run."""
    return (datetime.now(UTC) - 2 * HOUR).replace(hour=2, minute=0, second=0, microsecond=0)


def by_hand(place: Place, name: str, prefix: str | None = None, line: Pipeline | None = None, **asked: Any) -> Chain:
    """Return a run that a person starts, over the whole source or one folder of it."""
    params = ({"prefix": f"in/{prefix}/"} if prefix else {}) | asked
    return Chain(place, line or pipeline(), run_id=f"manual__{name}", params=params)


def redrive(place: Place, name: str, *reasons: str) -> Chain:
    """Return a redrive of the arrivals with these reasons."""
    return by_hand(place, name, redrive_reasons=[*reasons], redrive_why="the cause is cured", redrive_by="an operator")


def nightly(place: Place, ago: int = 0, line: Pipeline | None = None) -> Chain:
    """Return the scheduled run of so many nights before last night."""
    end = find_last_night() - ago * DAY
    window = Window(end - DAY, end)
    return Chain(place, line or pipeline(), run_id=f"scheduled__{end.isoformat()}", window=window)


def key_of(chain: Chain) -> str:
    """Return the key of a chain's run in the ledger."""
    return run_key(chain.pipeline.name, chain.run_id)


def give_back(chain: Chain) -> None:
    """Give a run's claims back, as `airlock ledger release` does."""
    with chain.place.ledger() as ledger:
        ledger.release_claims(chain.pipeline.name, key_of(chain))


def given(setup: bool) -> None:
    """Fail where a test's setup did not come about: not by an assertion, which would pass for the expected failure."""
    if not setup:
        raise RuntimeError("the setup of this test did not come about: mend the test, not its mark")


def put_at(place: Place, moment: datetime, files: dict[str, bytes]) -> None:
    """Deliver files as if it were that moment."""
    place.put(files)
    date_objects("archive", [f"in/{name}" for name in files], moment)


class WorkerKilled(BaseException):
    """The end of a worker: nothing of the task goes on, and nobody tries again."""


def kill_audit(chain: Chain, operation: str, key: str = "") -> None:
    """Run the audit and kill it when it sends this request, for a key that ends so."""

    def kill(asked: dict[str, Any]) -> None:
        if asked.get("Key", "").endswith(key):
            raise WorkerKilled

    with before_request(operation, kill), pytest.raises(WorkerKilled):
        chain.stage("audit")


@contextmanager
def before_request(operation: str, act: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call a function with the parameters of each request for an AWS operation, before it is sent."""
    send = BaseClient._make_api_call

    def intercept(client: Any, name: str, parameters: dict[str, Any]) -> Any:
        if name == operation:
            act(parameters)
        return send(client, name, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", intercept)
        yield


def newest_contract(place: Place) -> dict[str, Any] | None:
    """Return the routed contract of the highest revision, where one study is routed; None if nothing was."""
    return max(place.contracts(), key=lambda contract: contract["revision"], default=None)


def released(place: Place) -> set[str]:
    """Return the SOPInstanceUIDs that the newest routed contract names."""
    contract = newest_contract(place) or {"series": []}
    return {one["SOPInstanceUID"] for series in contract["series"] for one in series["instances"]}


def slices(*numbers: int) -> set[str]:
    """Return the SOPInstanceUIDs of slices of study 1."""
    return {sop_uid(1, 1, number) for number in numbers}
