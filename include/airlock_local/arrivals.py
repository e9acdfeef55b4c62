"""``make demo-arrivals``: upload a folder piece by piece; runs wake by themselves, and the books balance at the end."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airlock.run import run_key
from airlock.storage.s3uri import S3Uri
from airlock_cli.airflow_api import AirflowApi
from airlock_cli.watch import StalledError
from airlock_local.buckets import is_local, local_client, make_buckets
from airlock_local.choice import choose
from airlock_local.components import plan
from airlock_local.deliver import SourceError, check_room, sample_files, upload
from airlock_local.environment import USER, read_secrets
from airlock_local.progress import say
from airlock_local.queues import make_queues
from airlock_local.run import RunError, await_dag, check_alive
from airlock_local.stack import Stack
from airlock_local.stores import SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airlock_local.choice import Choice
    from airlock_local.deliver import LocalFile
    from airlock_local.settings import Settings

PIPELINE = "arrivals"
PIECES = 3
_LOOK_EVERY = 1.0  # seconds
_ENDED = frozenset({"success", "failed"})


def demonstrate(settings: Settings, source: str, environment: Mapping[str, str]) -> int:
    """Do what ``make demo-arrivals`` does.

    Returns
    -------
    int
        0 if every file ended in exactly one disposition, in runs that nobody started; else 1.

    Raises
    ------
    PipelineError, SourceError
        If the request is wrong; nothing was started.
    StackError, RunError, ApiError, StalledError
        If it broke off later.
    """
    choice = choose(settings.pipelines, PIPELINE, source, environment)
    if not is_local(choice.pipeline) or choice.pipeline.arrivals is None or choice.files == ():
        raise SourceError(
            f"the demonstration uploads a folder to the local stack: leave SOURCE out or name a folder, and keep "
            f"pipeline {PIPELINE!r} on the local connection with its arrivals section"
        )
    if choice.files:
        check_room(choice.files)
    parts = plan(settings, environment, choice.seeds(), local=True, account=False)
    Stack(settings).up(parts)
    s3 = local_client(settings.s3_url)
    make_buckets(s3, choice.buckets())
    make_queues(local_client(settings.s3_url, "sqs"), s3, choice.pipeline, choice.pipeline.arrivals)
    files = sample_files(settings.var / "sample", choice.pipeline.kind) if choice.files is None else choice.files
    with AirflowApi(settings.api_url, USER, read_secrets(settings).password) as api:
        api.log_in()
        for pool, service in choice.pools().items():
            api.make_pool(pool, SLOTS[service], f"{service} import jobs at a time")
        await_dag(api, choice, settings)
        woken = Woken(settings, api, s3, choice, frozenset(run["dag_run_id"] for run in api.runs(PIPELINE)))
        api.unpause(PIPELINE)
        return woken.show(files)


@dataclass(frozen=True)
class Woken:
    """The runs that wake while the demonstration uploads."""

    settings: Settings
    api: AirflowApi
    s3: Any
    choice: Choice
    earlier: frozenset[str]

    def show(self, files: Sequence[LocalFile]) -> int:
        """Upload the files piece by piece, wait for the runs, and print what became of the files."""
        target = S3Uri.parse(self.choice.pipeline.source.uri).join(f"{datetime.now(UTC):%Y%m%dT%H%M%S}", "")
        for number, piece in enumerate(_pieces(files), start=1):
            upload(self.s3, piece, target)
            say(f"piece {number}: {len(piece)} files uploaded to {target}; nobody starts a run")
            self._until(f"run {number} wakes", lambda number=number: len(self._runs()) >= number)  # type: ignore[misc]
        self._until("every file is decided", lambda: self._taken() >= len(files) and self._at_rest())
        reports = self._reports()
        dispositions: Counter[str] = Counter()
        for report in reports:
            dispositions.update(report["dispositions"])
        for line in table(dispositions, len(files), len(reports)):
            say(line)
        balanced = all(report["balanced"] for report in reports) and dispositions.total() == len(files)
        say("the books balance" if balanced else "THE BOOKS DO NOT BALANCE: see the runs' reports in the UI")
        say(f"UI: {self.settings.api_url} (user {USER}, password {read_secrets(self.settings).password})")
        return 0 if balanced else 1

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60 * self.settings.stall_minutes
        while not holds():
            check_alive(self.settings)
            if time.monotonic() > deadline:
                raise StalledError(
                    f"not within {self.settings.stall_minutes:g} minutes: {what}; look at the DAG {PIPELINE} and at "
                    f"{self.settings.var / 'log/triggerer.log'}, or allow more with AIRLOCK_STALL_MINUTES"
                )
            time.sleep(_LOOK_EVERY)

    def _runs(self) -> list[dict[str, Any]]:
        """Return the new runs that something else than a person started."""
        runs = [run for run in self.api.runs(PIPELINE) if run["dag_run_id"] not in self.earlier]
        return [run for run in runs if run["run_type"] in {"asset_triggered", "scheduled"}]

    def _at_rest(self) -> bool:
        return all(run["state"] in _ENDED for run in self._runs())

    def _taken(self) -> int:
        return sum(report["arrivals"] for report in self._reports())

    def _reports(self) -> list[dict[str, Any]]:
        """Return the reports of the runs that have ended.

        Raises
        ------
        RunError
            If one ended without a report.
        """
        ended = [run["dag_run_id"] for run in self._runs() if run["state"] in _ENDED]
        root = S3Uri.parse(self.choice.pipeline.workspace).join(PIPELINE, "")
        where = [root.join(run_key(PIPELINE, run), "audit/report.json") for run in ended]
        try:
            return [json.loads(self.s3.get_object(Bucket=uri.bucket, Key=uri.key)["Body"].read()) for uri in where]
        except self.s3.exceptions.NoSuchKey:
            raise RunError(f"a run ended without a report: see the DAG {PIPELINE} at {self.settings.api_url}") from None


def _pieces(files: Sequence[LocalFile]) -> Iterator[list[LocalFile]]:
    """Yield the files in pieces; one study may come in several."""
    yield from filter(None, (list(files[first::PIECES]) for first in range(PIECES)))


def table(dispositions: Mapping[str, int], files: int, runs: int) -> list[str]:
    """Lay out what became of the files."""
    rows = [f"  {number:>6}  {name}" for name, number in sorted(dispositions.items()) if number]
    return [
        "",
        f"{files} files, {runs} runs that woke by themselves",
        *rows,
        f"  {sum(dispositions.values()):>6}  in all",
    ]
