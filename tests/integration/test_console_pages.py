"""In a real browser: every page of the console fits, breaks no policy, works by keyboard, and shows a history.

With AIRLOCK_PICTURES set to a folder, each page is kept there as PNG: 1600x1000 and 1280x800, light and dark.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airlock_local.sample.history import ARCHIVE, NIGHTLY, PATIENT
from tests.browser import open_browser
from tests.servers.console import history_console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.browser import Page

pytestmark = [pytest.mark.proof, pytest.mark.slow]

NOW = datetime(2026, 11, 30, 6, 5, tzinfo=UTC)
NIGHTS = 90
PAGES = {
    "tonight": ("/", "What to do now"),
    "run": (f"/runs/{NIGHTLY}", "Books balance."),
    "run-underway": (f"/runs/{ARCHIVE}", "Not audited yet."),
    "triage": ("/triage", "Reviews that wait"),
    "triage-filtered": (f"/triage?pipeline={NIGHTLY}&disposition=held", "study_incomplete"),
    "group": (f"/triage/{NIGHTLY}/held/study_incomplete?site=nordhaven", "List for the sender"),
    "files": (f"/triage/{NIGHTLY}/quarantined/not_dicom/files", "Files of no known study"),
    "reviews": (f"/reviews/{NIGHTLY}/of/study_incomplete?site=nordhaven", "Release what is approved now"),
    "review": (f"/reviews/{NIGHTLY}/1", "Review 1"),
    "redrive": (f"/redrive/{NIGHTLY}?reasons=truncated", "Dry run"),
    "migration": ("/migration", "Census of"),
    "statement": (f"/migration/{ARCHIVE}/statement", "Clinical safety"),
    "trends": (f"/trends?pipeline={NIGHTLY}", "Reject rate by site"),
    "destinations": ("/destinations", "given up"),
    "find": ("/find", "is in no address"),
}
SIZES = ((1600, 1000), (1280, 800))
THEMES = ("light", "dark")
_WATCH = """window.broken = [];
document.addEventListener("securitypolicyviolation", event => window.broken.push(event.blockedURI));"""


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with history_console(tmp_path_factory.mktemp("history"), NOW, NIGHTS) as url:
        yield url


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        opened.call("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
        yield opened


def look(page: Page, size: tuple[int, int], theme: str = "light") -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])


def keep(page: Page, name: str) -> None:
    """Keep a picture of the whole page, if somebody wants it."""
    folder = os.environ.get("AIRLOCK_PICTURES")
    if folder:
        page.screenshot(Path(folder) / f"{name}.png")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("theme", THEMES)
def test_each_page_fits_and_breaks_no_policy(page: Page, console: str, size: tuple[int, int], theme: str) -> None:
    look(page, size, theme)
    for name, (path, words) in PAGES.items():
        page.open(console + path)
        page.shows(words)
        assert page.evaluate("window.broken") == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        assert PATIENT not in page.text(), name
        keep(page, f"{name}-{size[0]}-{theme}")


def test_text_can_be_read_on_its_ground_in_both_themes(page: Page, console: str) -> None:
    """Contrast of 4.5 to 1, as WCAG 2.2 asks of text (1.4.3)."""
    script = """(() => {
      const numbers = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const light = colour => numbers(colour).map(n => n / 255)
        .map(n => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4)
        .reduce((sum, n, place) => sum + n * [0.2126, 0.7152, 0.0722][place], 0);
      const ground = one => { for (let at = one; at; at = at.parentElement) {
        const found = getComputedStyle(at).backgroundColor;
        if (!found.endsWith(', 0)')) return found; } return 'rgb(255,255,255)'; };
      return [...document.querySelectorAll('main *, nav *')]
        .filter(one => one.checkVisibility() && !one.closest('svg') &&
        [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())).map(one => {
        const [a, b] = [light(getComputedStyle(one).color), light(ground(one))].sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), one.className, one.textContent.trim().slice(0, 40)];
      }).filter(([contrast]) => contrast < 4.5);
    })()"""
    for theme in THEMES:
        look(page, SIZES[0], theme)
        for name, (path, words) in PAGES.items():
            page.open(console + path)
            page.shows(words)
            assert page.evaluate(script) == [], (name, theme)


def test_a_study_is_found_and_revealed_with_a_reason(page: Page, console: str) -> None:
    look(page, SIZES[1])
    page.open(f"{console}/triage/{NIGHTLY}/held/study_incomplete?site=nordhaven")
    page.shows("List for the sender")
    key = page.evaluate("document.querySelector('td a code').textContent")
    page.open(f"{console}/find")
    page.write("input[name=text]", key)
    page.click("form button[type=submit]", "Find")
    page.shows(f"HELD in {NIGHTLY} since")
    assert key not in page.evaluate("location.href")
    keep(page, "found-1280-light")
    page.click("summary", "Show identifiers")
    page.write("input[name=why]", "the sender asks which file")
    page.click("button[type=submit]", "Show, and log it")
    page.shows(PATIENT)
    keep(page, "revealed-1280-light")
    page.open(f"{console}/studies/{NIGHTLY}/{key}")
    page.shows("the sender asks which file")
    assert PATIENT not in page.text()
    keep(page, "study-1280-light")


def test_a_page_is_used_by_keyboard(page: Page, console: str) -> None:
    page.open(f"{console}/")
    page.shows("What to do now")
    seen = []
    for _ in range(12):
        page.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        page.call("Input.dispatchKeyEvent", type="keyUp", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen.append(
            page.evaluate(
                "(one => [one.textContent.trim(), getComputedStyle(one).outlineStyle])(document.activeElement)"
            )
        )
    assert [name for name, _ in seen[:6]] == ["Tonight", "Triage", "Migration", "Trends", "Destinations", "Find"]
    assert {outline for _, outline in seen} == {"solid"}


def test_a_month_opens_its_backfill(page: Page, console: str) -> None:
    look(page, SIZES[1])
    page.open(f"{console}/migration")
    page.shows("Census of")
    page.click("summary", "By month of the archive")
    page.click("button[data-month]")
    found = page.evaluate(
        "(() => { const fields = document.querySelector('#backfill form').elements;"
        " return JSON.stringify([fields.dag_id.value, fields.from_date.value, fields.to_date.value]); })()"
    )
    dag, first, last = json.loads(found)
    assert dag == ARCHIVE
    assert first.endswith("-01")
    assert first[:7] == last[:7]
    assert int(last[8:]) >= 28
    keep(page, "backfill-1280-light")
    page.evaluate("window.fetch = (to, what) => { window.sent = [to, what.body]; return new Promise(() => {}); }, 0")
    page.click("dialog button", "Plan these days first")
    to, body = json.loads(page.evaluate("JSON.stringify(window.sent)"))
    conf = json.loads(body)["conf"]
    assert to.endswith(f"/api/v2/dags/{ARCHIVE}/dagRuns")
    assert (conf["plan_only"], conf["window_start"]) == (True, f"{first}T00:00:00Z")
    assert datetime.fromisoformat(conf["window_end"]) == datetime.fromisoformat(f"{last}T00:00Z") + timedelta(days=1)
    page.click("dialog button", "Start the backfill")
    to, body = json.loads(page.evaluate("JSON.stringify(window.sent)"))
    days = json.loads(body)
    assert to.endswith("/api/v2/backfills")
    assert (days["from_date"], days["to_date"]) == (f"{first}T00:00:00Z", f"{last}T23:59:59Z")  # the last day is whole


def test_a_hostile_site_runs_nothing(page: Page, console: str) -> None:
    page.open(f"{console}/triage?site=%22%3E%3Cimg%20src%3Dx%20onerror%3D%22window.broken.push('ran')%22%3E")
    page.shows("Nothing is held or rejected with these values")
    assert page.evaluate("window.broken") == []
