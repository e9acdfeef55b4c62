"""``make demo-arrivals``: upload a folder in pieces, wait for the runs that S3's notifications start, audit them."""

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
from airlock_local.report import COMMAND
from airlock_local.run import RunError, await_dag, check_alive
from airlock_local.stack import Stack

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
    """Run the demonstration of ``make demo-arrivals``.

    Returns
    -------
    int
        0 if every file ended in exactly one disposition, in runs that no person started; else 1.

    Raises
    ------
    PipelineError, SourceError
        The request is wrong; nothing was started.
    StackError, RunError, ApiError, StalledError
        It failed later.
    """
    choice = choose(settings.pipelines, PIPELINE, source, environment)
    if not is_local(choice.pipeline) or choice.pipeline.arrivals is None or choice.files == ():
        raise SourceError(
            f"The demonstration uploads a folder to the local stack. Leave SOURCE out or name a folder, and keep the "
            f"local connection and the arrivals section of pipeline {PIPELINE!r}."
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
        for pool in choice.pools(settings.parallelism):
            api.make_pool(pool.name, pool.slots, pool.description)
        await_dag(api, choice, settings)
        runs = WokenRuns(settings, api, s3, choice, frozenset(run["dag_run_id"] for run in api.runs(PIPELINE)))
        api.unpause(PIPELINE)
        return runs.show(files)


@dataclass(frozen=True)
class WokenRuns:
    """The runs that start while the demonstration uploads."""

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
            say(f"Piece {number}: {len(piece)} files uploaded to {target}. S3's notification is to start a run.")
            self._wait_until(f"run {number} has started", lambda number=number: len(self._runs()) >= number)  # type: ignore[misc]
        self._wait_until("every file is decided", lambda: self._count_arrivals() >= len(files) and self._have_ended())
        reports = self._reports()
        dispositions: Counter[str] = Counter()
        for report in reports:
            dispositions.update(report["dispositions"])
        for line in list_dispositions(dispositions, len(files), len(reports)):
            say(line)
        balanced = all(report["balanced"] for report in reports) and dispositions.total() == len(files)
        say("The books balance." if balanced else "THE BOOKS DO NOT BALANCE. See the runs' reports in the UI.")
        say(f"UI: {self.settings.api_url} (user {USER}, password {read_secrets(self.settings).password})")
        return 0 if balanced else 1

    def _wait_until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60 * self.settings.stall_minutes
        while not holds():
            check_alive(self.settings)
            if time.monotonic() > deadline:
                raise StalledError(
                    f"Waited {self.settings.stall_minutes:g} minutes in vain until {what}. See the DAG {PIPELINE} and "
                    f"{self.settings.var / 'log/triggerer.log'}, or set AIRLOCK_STALL_MINUTES to a higher number."
                )
            time.sleep(_LOOK_EVERY)

    def _runs(self) -> list[dict[str, Any]]:
        """Return the new runs that no person started."""
        runs = [run for run in self.api.runs(PIPELINE) if run["dag_run_id"] not in self.earlier]
        return [run for run in runs if run["run_type"] in {"asset_triggered", "scheduled"}]

    def _have_ended(self) -> bool:
        return all(run["state"] in _ENDED for run in self._runs())

    def _count_arrivals(self) -> int:
        return sum(report["arrivals"] for report in self._reports())

    def _reports(self) -> list[dict[str, Any]]:
        """Return the reports of the runs that have ended.

        Raises
        ------
        RunError
            A run ended without a report.
        """
        ended = [run["dag_run_id"] for run in self._runs() if run["state"] in _ENDED]
        root = S3Uri.parse(self.choice.pipeline.workspace).join(PIPELINE, "")
        addresses = [root.join(run_key(PIPELINE, run), "audit/report.json") for run in ended]
        try:
            return [json.loads(self.s3.get_object(Bucket=uri.bucket, Key=uri.key)["Body"].read()) for uri in addresses]
        except self.s3.exceptions.NoSuchKey:
            raise RunError(
                f"A run ended without a report. See the DAG {PIPELINE} at {self.settings.api_url}."
            ) from None


def _pieces(files: Sequence[LocalFile]) -> Iterator[list[LocalFile]]:
    """Yield the files in pieces; a study may be in several."""
    yield from filter(None, (list(files[first::PIECES]) for first in range(PIECES)))


def list_dispositions(dispositions: Mapping[str, int], files: int, runs: int) -> list[str]:
    """Return lines with the number of files of each disposition, as the run left it that took the file."""
    rows = [f"  {number:>6}  {name}" for name, number in sorted(dispositions.items()) if number]
    return [
        "",
        f"{files} files in {runs} runs that no person started, as each run left them",
        *rows,
        f"  {sum(dispositions.values()):>6}  in total",
        f"Studies that are still held: {COMMAND} held {PIPELINE}",
    ]
