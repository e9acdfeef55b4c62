"""The figures of the whole chain, from what was seen of it: stages, limits, the projection, and its table."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airlock.stages.projection import Assumed, Work, project
from benchmarks.whole_size import AWS_BATCH, FULL, STAGING_SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airlock.pipelines import ImagingPipeline
    from benchmarks.whole_size import Size

ARCHIVE_OBJECTS = 100_000_000  # that the run is projected to
MILLION = 1_000_000
STAGES = ("receive", "buffer", "next_wave", "parse", "validate", "normalize", "stage", "import", "audit", "route")
CHECKS = ("validate", "normalize")
STANDS_FOR_AWS = ("s3", "health")  # parts of the stack whose CPU a deployment does not need


class Instance(NamedTuple):
    """A task instance that has ended; times in seconds since the epoch."""

    id: str
    task: str
    run: str
    map_index: int
    start: float
    end: float

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Instance | None:
        """Return one of Airflow's records; None if it has not run."""
        if not record["start_date"] or not record["end_date"]:
            return None
        start, end = (datetime.fromisoformat(record[name]).timestamp() for name in ("start_date", "end_date"))
        return cls(record["id"], record["task_id"], record["dag_run_id"], record["map_index"], start, end)


@dataclass
class Seen:
    """What was seen of a delivery in waves.

    Parameters
    ----------
    began, ended
        In seconds since the epoch; ``ended`` is None if the time was up before.
    instances
        All that have ended.
    requests
        To S3, by kind and bucket.
    spans
        The first and the last of some kinds of request to S3.
    refused
        Requests that S3 was too busy for, by kind.
    calls
        Of HealthImaging, by operation.
    jobs
        The begin and the end of each.
    cpu_by_instance, cpu_by_part
        In seconds.
    cores
        Of this machine.
    released
        Objects, by the runs' reports.
    """

    began: float
    ended: float | None
    instances: list[Instance]
    requests: dict[str, int]
    spans: dict[str, list[float]]
    refused: dict[str, int]
    calls: dict[str, int]
    jobs: list[tuple[float, float]]
    cpu_by_instance: dict[str, float]
    cpu_by_part: dict[str, float]
    cores: int
    released: int


def sum_spans(spans: Iterable[tuple[float, float]]) -> float:
    """Return the seconds in which at least one of some spans lasts."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def share_staged_first(instances: Sequence[Instance]) -> float:
    """Return which share of a run's stagings had ended when its first import began."""
    first = min(one.start for one in instances if one.task == "import")
    ends = [one.end for one in instances if one.task == "stage"]
    return sum(end <= first for end in ends) / len(ends)


def figures(size: Size, seen: Seen, archive: str, staging: str, pipeline: ImagingPipeline) -> dict[str, Any]:
    """Return the figures.

    Parameters
    ----------
    size
        How much was measured.
    seen
        What was seen.
    archive, staging
        The buckets.
    pipeline
        The measured one, whose settings a projection uses where nothing was measured.
    """
    found: dict[str, Any] = {"stages": list(_stages(seen)), "parts": seen.cpu_by_part}
    found["limits"] = list(_limits(size, seen, archive, staging))
    used = sum(seen.cpu_by_instance.values()) + sum(seen.cpu_by_part.values())
    until = seen.ended or max((one.end for one in seen.instances), default=seen.began)
    found["cpu_share"] = used / seen.cores / (until - seen.began)
    found["cpu_seconds"] = used
    found["requests"], found["refused"], found["calls"] = seen.requests, seen.refused, seen.calls
    found["released"] = seen.released
    if seen.ended is not None:
        found["whole"] = _whole(found["limits"], seen.began, seen.ended)
        found["instances"] = _count_instances(size, seen.instances)
        found["projection"] = _project(size, seen, archive, pipeline)
        found["projection_is_measured"] = is_full(size)
    return found


def _stages(seen: Seen) -> Iterator[dict[str, Any]]:
    by_task: dict[str, list[Instance]] = {}
    for one in seen.instances:
        by_task.setdefault(one.task, []).append(one)
    for task in (*STAGES, *sorted(by_task.keys() - set(STAGES))):
        if task in by_task:
            ones = by_task[task]
            yield {
                "stage": task,
                "instances": len(ones),
                "wall_seconds": sum_spans((one.start, one.end) for one in ones),
                "cpu_seconds": sum(seen.cpu_by_instance.get(one.id, 0.0) for one in ones),
                "first": min(one.start for one in ones) - seen.began,
                "last": max(one.end for one in ones) - seen.began,
            }


def _limits(size: Size, seen: Seen, archive: str, staging: str) -> Iterator[dict[str, Any]]:
    """Yield for each limit the work, the seconds that the limit allows for it, and the time that it took."""
    limits = size.limits()
    copies, gets = (seen.requests.get(name, 0) for name in (f"copy {staging}", f"get {archive}"))
    parse = [(one.start, one.end) for one in seen.instances if one.task == "parse"]
    jobs = seen.jobs
    whole = (min((began for began, _ in jobs), default=0.0), max((ended for _, ended in jobs), default=0.0))
    starts = (whole[0], max((began for began, _ in jobs), default=0.0))
    rows = (
        ("S3 COPY", copies, copies / limits.copies_per_second, seen.spans.get(f"copy {staging}"), None),
        ("S3 GET", gets, gets / limits.gets_per_second, seen.spans.get(f"get {archive}"), sum_spans(parse)),
        ("job starts", len(jobs), max(0, len(jobs) - 1) / limits.starts_per_second, starts, None),
        ("concurrent jobs", len(jobs), sum(ended - began for began, ended in jobs) / limits.jobs, whole, None),
    )
    for limit, work, seconds, span, busy in rows:
        if work and span is not None:
            took = span[1] - span[0] if busy is None else busy
            yield {
                "limit": limit,
                "work": work,
                "seconds_at_limit": seconds,
                "seconds": took,
                "utilisation": seconds / took if took else None,
                "first": span[0] - seen.began,
                "last": span[1] - seen.began,
            }


def _whole(limits: Sequence[Mapping[str, Any]], began: float, ended: float) -> dict[str, Any]:
    """Compare the wall with the limit that binds, what comes before its first use and what after its last."""
    binding = max(limits, key=lambda row: float(row["seconds_at_limit"]))
    wall, head = ended - began, float(binding["first"])
    tail = wall - float(binding["last"])
    least = binding["seconds_at_limit"] + head + tail
    return {
        "binding": binding["limit"],
        "wall_seconds": wall,
        "binding_seconds": binding["seconds_at_limit"],
        "head_seconds": head,
        "tail_seconds": tail,
        "ratio": wall / least,
    }


def _count_instances(size: Size, instances: Sequence[Instance]) -> dict[str, float]:
    """Return the task instances of a million objects in one wave, and of each further wave.

    Mapped instances follow the objects, the others the waves. Only batches and waves of the full size say how many
    there are of a million objects.
    """
    waves = len({one.run for one in instances})
    mapped = Counter(one.map_index >= 0 for one in instances)
    found = {"all": float(len(instances)), "of_each_wave": mapped[False] / waves}
    if is_full(size):
        found["in_one_wave"] = found["of_each_wave"] + mapped[True] * MILLION / size.objects
        found["of_each_further_wave"] = (len(instances) - found["in_one_wave"]) / max(1, waves - 1)
    return found


def _project(size: Size, seen: Seen, archive: str, pipeline: ImagingPipeline) -> dict[str, Any]:
    """Project to a large archive under AWS's whole limits, with full jobs, and what was measured of Airlock itself.

    In small waves the fixed time of each task weighs too much: then the seconds and the CPU are those of a plan.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    for one in seen.instances:
        seconds[one.task] += one.end - one.start
    settings = pipeline.plan
    work = Work(
        requests_per_object=seen.requests.get(f"get {archive}", 0) / size.objects,
        copies_per_object=1,
        files_per_job=AWS_BATCH,
        seconds_per_job=settings.job_seconds + AWS_BATCH / settings.job_files_per_second,
    )
    ours = [seconds for part, seconds in seen.cpu_by_part.items() if part not in STANDS_FOR_AWS]
    measured = {
        "check_seconds_per_million": sum(seconds[task] for task in CHECKS) * MILLION / size.objects,
        "audit_seconds_per_million": seconds["audit"] * MILLION / size.objects,
        "cpu_ms_per_object": (sum(seen.cpu_by_instance.values()) + sum(ours)) * 1000 / size.objects,
    }
    assumed = Assumed.of(
        pipeline,
        cores=seen.cores * size.factor,
        concurrent_jobs=100,
        wave_objects=MILLION,
        copies_in_flight=pipeline.staging.copies_in_flight * round(STAGING_SLOTS * size.factor),
        **(measured if is_full(size) else {}),
    )
    return project(ARCHIVE_OBJECTS, work, assumed).model_dump(mode="json")


def is_full(size: Size) -> bool:
    """Return whether waves and jobs are as large as those of a million objects in ten waves."""
    return size.batch == AWS_BATCH and size.objects >= FULL.objects


def table(found: Mapping[str, Any]) -> str:
    """Return the figures as text."""
    parts = (_size_lines, _early_lines, _stage_lines, _limit_lines, _whole_lines)
    return "\n".join(line for part in parts for line in part(found))


def _size_lines(found: Mapping[str, Any]) -> Iterator[str]:
    size = found["size"]
    yield (
        f"{size['objects']:,} objects in {size['waves']} waves, {size['batch']:,} files a job; AWS's limits divided by "
        f"{size['factor']:g}; {found['cpu_share']:.0%} of the machine's CPU"
    )
    if size["batch"] != AWS_BATCH:
        yield f"  Jobs of {size['batch']:,} files, not {AWS_BATCH:,}: their fixed time and starts are scaled to it."
    if found["refused"]:
        yield f"  S3 was too busy for {found['refused']}"


def _early_lines(found: Mapping[str, Any]) -> Iterator[str]:
    if found.get("early", {}).get("staged_before_first_import") is not None:
        early = found["early"]
        yield (
            f"  {early['batches']} batches, {early['slots']} slots: {early['staged_before_first_import']:.0%} were "
            "staged before the first import began"
        )


def _stage_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {'stage':14}{'tasks':>7}{'wall s':>10}{'CPU s':>10}{'from':>9}{'to':>9}"
    for row in found["stages"]:
        yield (
            f"  {row['stage']:14}{row['instances']:>7}{row['wall_seconds']:>10.1f}{row['cpu_seconds']:>10.1f}"
            f"{row['first']:>9.1f}{row['last']:>9.1f}"
        )
    yield "  CPU s of " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in found["parts"].items())
    yield "  requests: " + ", ".join(f"{number:,} {what}" for what, number in sorted(found["requests"].items()))
    yield "  calls: " + ", ".join(f"{number:,} {what}" for what, number in sorted(found["calls"].items()))


def _limit_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {'limit':18}{'work':>12}{'s at limit':>12}{'s':>10}{'used':>8}"
    for row in found["limits"]:
        share = "-" if row["utilisation"] is None else f"{row['utilisation']:.0%}"
        yield f"  {row['limit']:18}{row['work']:>12,}{row['seconds_at_limit']:>12.1f}{row['seconds']:>10.1f}{share:>8}"


def _whole_lines(found: Mapping[str, Any]) -> Iterator[str]:
    if "whole" not in found:
        yield "  The time was up before the last run had ended: allow more with --minutes."
        return
    whole, instances = found["whole"], found["instances"]
    yield (
        f"  wall {whole['wall_seconds']:.0f} s; {whole['binding']} binds: {whole['binding_seconds']:.0f} s at it, "
        f"{whole['head_seconds']:.0f} s before its first use, {whole['tail_seconds']:.0f} s after its last: "
        f"{whole['ratio']:.2f}x"
    )
    yield f"  {instances['all']:.0f} task instances, {instances['of_each_wave']:.1f} of each wave besides mapped ones"
    projection = found["projection"]
    yield (
        f"  Projected to {projection['objects']:,} objects by {_source(found)}: {projection['hours']:.1f} hours, "
        f"of which {projection['head_hours']:.1f} before and {projection['tail_hours']:.1f} after; limited by "
        f"{projection['limited_by']}"
    )
    for row in projection["limits"]:
        yield f"    {row['limit']:18}{row['hours']:>8.1f} hours alone, {row['objects_per_second']:,.0f} objects/s"
    yield from (f"    {text}" for text in projection["assumptions"])


def _source(found: Mapping[str, Any]) -> str:
    """Return where the projection has the seconds and the CPU of the stages from."""
    return "these figures" if found["projection_is_measured"] else "a plan's settings, since these waves are small"
