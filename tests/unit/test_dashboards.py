"""The shipped alert rules and the dashboard name only metrics that Airlock writes."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from airlock_local.settings import ROOT

FOLDER = ROOT / "deploy/dashboards"
METRIC = re.compile(r"\bairflow_(airlock_[a-z_]+)")


def written() -> set[str]:
    """Return the metrics that docs/telemetry.md and the pages that it names list, as Prometheus spells them."""
    pages = [ROOT / f"docs/{name}.md" for name in ("telemetry", "sweep", "review", "arrivals", "reconcile")]
    found = {name for page in pages for name in re.findall(r"`(airlock\.[a-z_.]+)`", page.read_text())}
    text = (ROOT / "docs/telemetry.md").read_text()
    rows = [line for line in text.splitlines() if "each with `oldest_hours`" in line]
    named = [name for line in rows for name in re.findall(r"`(airlock\.[a-z_.]+)`", line.partition(", each")[0])]
    found |= {f"{name.rpartition('.')[0]}.oldest_hours" for name in named}
    return {name.replace(".", "_") for name in found}


def expressions() -> list[str]:
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    dashboard = json.loads((FOLDER / "airlock.json").read_text())
    return [rule["expr"] for group in rules for rule in group["rules"]] + [
        target["expr"] for panel in dashboard["panels"] for target in panel["targets"]
    ]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_that_are_documented(expression: str) -> None:
    named = set(METRIC.findall(f"{expression} "))
    assert named
    assert named <= written()


def test_a_panel_uses_only_variables_of_the_dashboard() -> None:
    dashboard = json.loads((FOLDER / "airlock.json").read_text())
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used == defined


def test_panels_fit_into_grafanas_24_columns_and_do_not_overlap() -> None:
    panels = json.loads((FOLDER / "airlock.json").read_text())["panels"]
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_every_rule_names_a_page_that_says_what_to_do() -> None:
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            assert (ROOT / rule["annotations"]["runbook"]).is_file()
            assert rule["labels"]["severity"] in {"critical", "warning"}
