"""A plan as a table for a terminal and a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airlock.stages.batches import MAX_BATCHES
from airlock.stages.pages.numbers import plural
from airlock.stages.plan import Storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.plan import Cost, Plan, Projection, ResourceStorage


def format_plan(plan: Plan) -> str:
    """Return a plan's counts, hours and costs as lines of text, without a key or an identifier."""
    return "\n".join(
        [
            f"plan of pipeline {plan.pipeline}: nothing was claimed, staged or imported",
            *_delivery_lines(plan),
            *_work_lines(plan),
            *_cost_lines(plan.cost),
            *_projection_lines(plan.projection),
            "",
            "Assumed:",
            *(f"  - {text}" for text in plan.assumptions),
        ]
    )


def _delivery_lines(plan: Plan) -> Iterator[str]:
    yield f"  {'objects listed':42}{plan.listed:>14,}"
    yield f"  {'settled by earlier runs':42}{plan.settled:>14,}"
    yield f"  {'held by other runs':42}{plan.claimed_elsewhere:>14,}"
    if plan.undated:
        yield f"  {'without a date in their key':42}{plan.undated:>14,}"
    yield f"  {'arrivals':42}{plan.arrivals:>14,}  {_size(plan.bytes)}"
    for item in plan.findings:
        name = f"  {item.verdict}" + (f" {item.reason}" if item.reason else "")
        sentence = f"  {item.sentence}" if item.sentence else ""
        number = item.arrivals if item.units is None else item.units
        yield f"  {name:42}{number:>14,}  {_size(item.bytes):>10}{sentence}"


def _content_lines(plan: Plan) -> Iterator[str]:
    if plan.studies is not None:
        yield f"  {'studies':42}{plan.studies:>14,}"
        yield f"  {'series':42}{plan.series:>14,}"
        yield from _declared_lines(plan)
    elif plan.resources is not None:
        yield f"  {'resources to import':42}{plan.resources.total:>14,}"
        for name, number in plan.resources.by_type.items():
            yield f"    {name:40}{number:>14,}"
        yield f"  {'patients':42}{plan.resources.patients:>14,}"
    else:
        yield f"  {'resources':42}{'unknown':>14}  before the documents are converted"


def _declared_lines(plan: Plan) -> Iterator[str]:
    """Yield the studies that declare a number of instances, by site, and the plan's questions about them."""
    for one in plan.declared:
        name = f"  declared by {one.declared_by}" + (f", site {one.site}" if one.site else "")
        numbers = f"equal {one.equal:,}, fewer {one.fewer:,}, more {one.more:,}"
        yield f"{name:44}{one.declare:>14,}  of {one.studies:,} studies: {numbers}"
    yield from (f"  {question}" for question in plan.questions)


def _work_lines(plan: Plan) -> Iterator[str]:
    batches, hours = plan.batches, plan.hours
    yield from _content_lines(plan)
    converts = plan.studies is None and plan.resources is None
    if plan.waves is not None and plan.waves > 1:
        yield f"  {'waves, one run each':42}{plan.waves:>14,}"
    jobs = f"batches, one {'conversion' if converts else 'import'} job each"
    largest = f"largest: {batches.most_files:,} files, {_size(batches.most_bytes)}; {batches.in_place:,} without a copy"
    yield f"  {jobs:42}{batches.jobs:>14,}  {largest}"
    if batches.too_many:
        yield f"  More jobs than the {MAX_BATCHES:,} that one run maps: split it by smaller windows or prefixes."
    nights = "" if hours.nights is None else f", in {plural(hours.nights, 'night')}"
    yield f"  {'hours of copies':42}{hours.copies:>14,.2f}"
    yield f"  {'hours of import':42}{hours.jobs:>14,.2f}  limited by {hours.limited_by}{nights}"


def _projection_lines(projection: Projection | None) -> Iterator[str]:
    if projection is None:
        return
    yield ""
    yield (
        f"Projected to an archive of {projection.objects:,} such objects, in {plural(projection.waves, 'wave')} and "
        f"{projection.jobs:,} jobs:"
    )
    yield f"  {'hours of the listing and the first wave':42}{projection.head_hours:>14,.2f}"
    yield f"  {'hours of all objects':42}{projection.binding_hours:>14,.2f}  limited by {projection.limited_by}"
    yield f"  {'hours of the last job and the last audit':42}{projection.tail_hours:>14,.2f}"
    yield f"  {'hours':42}{projection.hours:>14,.2f}"
    for one in projection.limits:
        yield f"    {one.limit + ' alone':40}{one.hours:>14,.2f}  {one.objects_per_second:,.0f} objects/s"
    yield "  Assumed:"
    yield from (f"    - {text}" for text in projection.assumptions)


def _cost_lines(cost: Cost) -> Iterator[str]:
    yield ""
    yield f"Cost in {cost.currency}, prices of {cost.region} as of {cost.as_of:%Y-%m-%d}:"
    for item in cost.requests:
        made = "  made by the plan too" if item.made else ""
        yield f"  {item.what:60}{item.number:>14,}{_money(item.cost)}{made}"
    yield f"  {'all requests':74}{_money(cost.all_requests)}"
    yield f"  {'import':74}{_money(cost.imports)}"
    for what, month, stored in _storage_lines(cost.storage):
        yield f"  {what:74}{_money(month)}{stored}"


def _storage_lines(storage: Storage | ResourceStorage) -> Iterator[tuple[str, float | None, str]]:
    if isinstance(storage, Storage):
        stored = f"  {storage.image_sets:,} image sets, billed as {_size(storage.billed_bytes)}"
        yield "storage per month, Frequent Access", storage.frequent, stored
        yield "storage per month, Archive Instant Access", storage.archive, ""
    else:
        stored = "" if storage.billed_bytes is None else f"  billed as {_size(storage.billed_bytes)}"
        yield "storage per month, HealthLake", storage.healthlake, stored
    yield "copies in S3 per month, until they are removed", storage.copies, ""


def _money(amount: float | None) -> str:
    return f"{'unknown':>12}" if amount is None else f"{amount:>12,.4f}"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"
