"""The tables of a plan, schema ``airlock.plan/1``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock_cli.show import Table, size

if TYPE_CHECKING:
    from collections.abc import Iterator


def tables(plan: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a plan."""
    batches, hours, cost = plan["batches"], plan["hours"], plan["cost"]
    counted = [(name, plan[name]) for name in ("listed", "settled", "claimed_elsewhere", "arrivals")]
    counted += [("size", size(plan["bytes"])), ("studies", plan["studies"]), ("series", plan["series"])]
    counted += [("import jobs", batches["jobs"]), ("files to import", batches["files"])]
    counted += [("hours", f"{hours['total']:.1f}, of which copies {hours['copies']:.1f}"), *_nights(hours)]
    yield Table(f"plan of pipeline {plan['pipeline']}; nothing was imported", ("", ""), counted)
    findings = [
        (item["arrivals"], size(item["bytes"]), item["verdict"], item["reason"], item["sentence"])
        for item in plan["findings"]
    ]
    yield Table("findings", ("arrivals", "size", "verdict", "reason", "what_to_do"), findings)
    yield Table(
        f"cost in {cost['currency']}, by the prices of {cost['as_of']} in {cost['region']}", ("", ""), _cost(cost)
    )
    yield Table("assumptions", ("",), [(text,) for text in plan["assumptions"]])


def _nights(hours: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if hours["nights"] is not None:
        yield "nights", hours["nights"]


def _cost(cost: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(f"{item['number']} {item['what']}", f"{item['cost']:.2f}") for item in cost["requests"]]
    rows += [("requests in all", f"{cost['all_requests']:.2f}"), ("imports", f"{cost['imports']:.2f}")]
    stored = cost["storage"]
    rows += [(f"storage per month, {name}", f"{stored[name]:.2f}") for name in ("frequent", "archive", "copies")]
    return rows
