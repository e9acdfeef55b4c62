"""The console in the real Airflow UI: in the navigation, as a tab of a run, with Airflow's user, theme and rights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest

from airlock_local.environment import USER, read_secrets
from tests.browser import open_browser
from tests.e2e.conftest import CANARY, PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.browser import Page
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]

DAG = "first"
FRAME = "document.querySelector('iframe')?.contentDocument"


@pytest.fixture(scope="module")
def run_id(machine: Machine) -> str:
    with machine.api() as api:
        return str(max(api.runs(DAG), key=lambda run: str(run["run_after"]))["dag_run_id"])


@pytest.fixture(scope="module")
def page(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder: Path = tmp_path_factory.mktemp("browser")
    with open_browser(folder, width=1600, height=1000) as opened:
        opened.log_in(machine.settings.api_url, USER, read_secrets(machine.settings).password)
        yield opened


def in_frame(page: Page, words: str) -> str:
    """Wait until the frame shows these words, and return all that it shows."""

    def text() -> str:
        return str(page.evaluate(f"{FRAME}?.body?.innerText ?? ''"))

    until(f"the frame shows {words!r}", lambda: words in text(), PATIENCE)
    return text()


def get(machine: Machine, path: str, **more: Any) -> httpx.Response:
    return httpx.get(f"{machine.settings.api_url}/airlock{path}", timeout=60, trust_env=False, **more)


def test_nobody_gets_a_page_without_a_login(machine: Machine) -> None:
    for path in ("/", f"/runs/{DAG}", "/triage", "/find", "/static/console.js"):
        answer = get(machine, path)
        assert answer.status_code == 401, path
        assert "Log in to Airflow" in answer.text
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert get(machine, path).status_code == 404


def test_tonight_is_in_the_navigation(machine: Machine, page: Page) -> None:
    page.open(f"{machine.settings.api_url}/")
    page.shows("Dags")
    page.click("a[href*='/plugin/airlock'], button[aria-label='Airlock'], a[title='Airlock']")
    assert DAG in in_frame(page, "What to do now")


def test_a_run_has_its_audit_as_a_tab(machine: Machine, page: Page, run_id: str) -> None:
    page.open(f"{machine.settings.api_url}/dags/{DAG}/runs/{quote(run_id, safe='')}/plugin/airlock-run")
    text = in_frame(page, "Books balance.")
    assert "each line matched" in text
    assert not [name for name in CANARY.values() if name in text]


def test_a_link_leaves_the_frame_without_a_reload(machine: Machine, page: Page, run_id: str) -> None:
    page.open(f"{machine.settings.api_url}/dags/{DAG}/runs/{quote(run_id, safe='')}/plugin/airlock-run")
    in_frame(page, "Books balance.")
    page.evaluate("window.kept = true")
    page.evaluate(f"{FRAME}.querySelector('[data-leave]').click()")
    until("Airflow shows the run", lambda: "/plugin/" not in page.evaluate("location.pathname"), PATIENCE)
    assert page.evaluate("window.kept") is True


def test_the_theme_is_airflow_s(machine: Machine, page: Page) -> None:
    page.open(f"{machine.settings.api_url}/plugin/airlock")
    in_frame(page, "What to do now")
    for theme in ("dark", "light"):
        other = "light" if theme == "dark" else "dark"
        page.evaluate(f"document.documentElement.classList.replace('{other}', '{theme}'), 0")
        until(
            f"the frame is {theme}",
            lambda theme=theme: page.evaluate(f"{FRAME}.documentElement.classList.contains('{theme}')"),
            PATIENCE,
        )


def test_a_held_study_is_found_by_its_uid_and_shown_for_a_reason(machine: Machine, page: Page) -> None:
    page.open(f"{machine.settings.api_url}/airlock/triage?pipeline={DAG}&disposition=held")
    page.shows("Triage")
    page.click("tbody th a")
    page.shows("study key")
    page.click("tbody td a")
    page.shows("HELD in first since")
    assert not [name for name in CANARY.values() if name in page.text()]
    page.click("summary", "Show identifiers")
    page.write("input[name=why]", "e2e looks")
    page.click("button[type=submit]", "Show, and log it")
    page.shows("broken/")
    page.evaluate("history.back(), 0")
    page.shows("e2e looks")


def test_a_redrive_starts_through_airflow_s_own_api(machine: Machine, page: Page) -> None:
    page.open(f"{machine.settings.api_url}/airlock/redrive/{DAG}?reasons=truncated")
    page.shows("would go through again")
    page.write("input[name=redrive_why]", "the console asks")
    page.click("form button[type=submit]", "Start the redrive")
    until("Airflow shows the run", lambda: "/runs/" in page.evaluate("location.pathname"), PATIENCE)
    with machine.api() as api:
        newest = max(api.runs(DAG), key=lambda run: str(run["run_after"]))
        assert newest["conf"] == {"redrive_reasons": ["truncated"], "redrive_why": "the console asks"}
        assert newest["triggering_user_name"] == USER
        until("the run ends", lambda: api.run_state(DAG, str(newest["dag_run_id"])) in {"success", "failed"})


def test_no_log_has_what_was_looked_for(machine: Machine, page: Page) -> None:
    page.open(f"{machine.settings.api_url}/airlock/find")
    page.write("input[name=text]", "1.2.3.4.CANARY-LOOKED-FOR")
    page.click("form button[type=submit]", "Find")
    page.shows("Nothing is known of it")
    log = (machine.settings.var / "log/api-server.log").read_text(errors="replace")
    assert "CANARY-LOOKED-FOR" not in log
