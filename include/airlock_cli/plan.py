"""The tables of a plan, schema ``airlock.plan/1``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock_cli.show import Table, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOO_MANY = "One run cannot start this many import jobs. Split the delivery by smaller windows or prefixes."


def tables(plan: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a plan."""
    batches, hours, cost = plan["batches"], plan["hours"], plan["cost"]
    counted = [(name, plan[name]) for name in ("listed", "settled", "claimed_elsewhere", "undated", "arrivals")]
    counted += [("size", format_size(plan["bytes"])), *_content_rows(plan)]
    counted += [("import jobs", batches["jobs"]), ("files to import", batches["files"])]
    counted += [("hours", _format_hours(hours, batches["jobs"])), *_night_rows(hours)]
    yield Table(f"plan of pipeline {plan['pipeline']}; nothing was imported", ("", ""), counted)
    yield Table("problems", ("",), [(_TOO_MANY,)] if batches["too_many"] else [])
    findings = [
        (_count(item), format_size(item["bytes"]), item["verdict"], item["reason"], item["sentence"])
        for item in plan["findings"]
    ]
    yield Table(
        "findings",
        ("units" if plan["kind"] == "clinical" else "arrivals", "size", "verdict", "reason", "what_to_do"),
        findings,
    )
    yield Table(
        f"cost in {cost['currency']}, by the prices of {cost['as_of']} in {cost['region']}", ("", ""), _cost_rows(cost)
    )
    if plan["projection"] is not None:
        yield from _projection_tables(plan["projection"])
    yield Table("assumptions", ("",), [(text,) for text in plan["assumptions"]])


def _projection_tables(projection: dict[str, Any]) -> Iterator[Table]:
    """Yield the hours of a whole archive, and what was assumed for them."""
    parts = [
        ("waves", projection["waves"]),
        ("import jobs", projection["jobs"]),
        ("the listing and the first wave", f"{projection['head_hours']:.2f}"),
        ("all objects", f"{projection['binding_hours']:.2f}; limited by {projection['limited_by']}"),
        ("the last job and the last audit", f"{projection['tail_hours']:.2f}"),
        ("hours", f"{projection['hours']:.2f}"),
    ]
    limits = [
        (f"{item['limit']} alone", f"{item['hours']:.2f}; {item['objects_per_second']:.0f} objects/s")
        for item in projection["limits"]
    ]
    yield Table(f"projected to an archive of {projection['objects']:,} such objects", ("", ""), [*parts, *limits])
    yield Table("projection: assumptions", ("",), [(text,) for text in projection["assumptions"]])


def _count(item: dict[str, Any]) -> int:
    return int(item["arrivals"] if item["units"] is None else item["units"])


def _content_rows(plan: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if plan["kind"] == "imaging":
        yield from ((name, plan[name]) for name in ("studies", "series", "waves"))
    elif plan["resources"] is not None:
        yield from (("resources", plan["resources"]["total"]), *plan["resources"]["by_type"].items())
        yield "patients", plan["resources"]["patients"]
    else:
        yield "resources", "unknown before the documents are converted"


def _format_hours(hours: dict[str, Any], jobs: int) -> str:
    if not jobs:
        return "none: nothing to import"
    copies = f", including {hours['copies']:.2f} for copies" if round(hours["copies"], 2) else ""
    return f"{hours['total']:.2f}{copies}; limited by {hours['limited_by']}"


def _night_rows(hours: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if hours["nights"] is not None:
        yield "nights", hours["nights"]


def _cost_rows(cost: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(f"{item['number']} {item['what']}", _format_money(item["cost"], 4)) for item in cost["requests"]]
    rows += [("requests in all", _format_money(cost["all_requests"], 4)), ("imports", _format_money(cost["imports"]))]
    tiers = ("frequent", "archive", "healthlake", "copies")
    stored = {name: cost["storage"][name] for name in tiers if name in cost["storage"]}
    return rows + [(f"storage per month, {name}", _format_money(month)) for name, month in stored.items()]


def _format_money(amount: float | None, digits: int = 2) -> str:
    return "unknown" if amount is None else f"{amount:.{digits}f}"
