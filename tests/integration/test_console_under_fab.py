"""The console and Airflow's own API in a real API server under FAB: every route by every role, printed as a table.

The history is that of the console's other tests; the roles are those that Compose makes.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
import pytest
import yaml
from sqlalchemy import create_engine, select

from airlock.ledger.decision_tables import decisions, reviews
from airlock.ledger.tables import gates, runs
from airlock_console.roles import OPERATOR as OPERATORS
from airlock_console.roles import REVIEWER as REVIEWERS
from airlock_console.roles import VIEWER as VIEWERS
from airlock_local.buckets import local_client
from airlock_local.sample.history import ARCHIVE, NIGHTLY, PATIENT, write_history
from airlock_local.settings import ROOT, Settings
from tests.browser import open_browser
from tests.servers.fab import PASSWORD, fab_airflow
from tests.servers.moto import moto_server
from tests.servers.ports import free_port
from tests.unit.airlock_console.conftest import ADMIN, ANONYMOUS, OPERATOR, OUTSIDER, REVIEWER, USERS, VIEWER
from tests.unit.airlock_console.test_rights import FORM, TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.fab import FabAirflow

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(900)]

NIGHTS = 20
OTHER_DAG = "clinical"
READ = "can_read"
# A reader of one DAG, as docs/identity.md makes one: no right on all DAGs.
ONE_DAG = [(READ, what) for what in (f"DAG:{OTHER_DAG}", "DAG Runs", "Task Instances", "Task Logs", "Website")]
ROLE_OF = {OUTSIDER: "Clinical readers", VIEWER: VIEWERS, OPERATOR: OPERATORS, REVIEWER: REVIEWERS}
# What goes through Airflow's own API: its status by user, in the order of USERS.
AIRFLOWS = {
    ("GET", f"/api/v2/dags/{NIGHTLY}/dagRuns", "read runs"): (401, 403, 200, 200, 200, 200),
    ("POST", f"/api/v2/dags/{NIGHTLY}/dagRuns", "start a run"): (401, 403, 403, 200, 403, 200),
    ("GET", "/api/v2/connections", "read connections"): (401, 403, 403, 403, 403, 200),
    ("GET", "/api/v2/variables", "read variables"): (401, 403, 403, 403, 403, 200),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A folder with a ledger of twenty nights and the files of three pipelines."""
    folder = tmp_path_factory.mktemp("fab")
    (folder / "pipelines").mkdir()
    for name in (NIGHTLY, ARCHIVE, OTHER_DAG):
        shipped = ROOT / f"include/pipelines/{NIGHTLY if name == ARCHIVE else name}.yaml"
        content = yaml.safe_load(shipped.read_text()) | {"name": name}
        if name == ARCHIVE:
            content["source"]["uri"] = "s3://airlock-archive/archive/"
        if name == NIGHTLY:
            content["review"] = {"by": "the archive team", "assignees": [f"group:{REVIEWERS}"]}
        (folder / f"pipelines/{name}.yaml").write_text(yaml.safe_dump(content))
    made = Settings(api_port=free_port(), s3_port=free_port(), var=folder, pipelines=folder / "pipelines")
    write_history(made.ledger_url, datetime.now(UTC), nights=NIGHTS)
    return made


@pytest.fixture(scope="module")
def airflow(settings: Settings) -> Iterator[FabAirflow]:
    with moto_server(settings.s3_port):  # has the decision log's copies
        local_client(settings.s3_url).create_bucket(Bucket="airlock-workspace")
        with fab_airflow(settings, {ROLE_OF[OUTSIDER]: ONE_DAG}, ROLE_OF) as server:
            yield server


@pytest.fixture(scope="module")
def clients(airflow: FabAirflow) -> Iterator[dict[str, httpx.Client]]:
    """A client of each user."""
    opened = {}
    for user in USERS:
        head = {} if user == ANONYMOUS else {"Authorization": f"Bearer {airflow.log_in(user)}"}
        opened[user] = httpx.Client(base_url=airflow.url, headers=head, timeout=60, trust_env=False)
    yield opened
    for client in opened.values():
        client.close()


@pytest.fixture(scope="module")
def names(settings: Settings) -> dict[str, str]:
    engine = create_engine(settings.ledger_url)
    with engine.connect() as connection:
        newest = select(runs.c.run_id).where(runs.c.pipeline == NIGHTLY).order_by(runs.c.started_at.desc())
        held = select(gates.c.subject_key).order_by(gates.c.decided_at.desc())
        found = {"run_id": connection.scalars(newest).first(), "study_key": connection.scalars(held).first()}
        found["number"] = connection.scalars(select(reviews.c.id)).first()
    engine.dispose()
    return {name: str(value) for name, value in found.items()}


def status(client: httpx.Client, method: str, path: str, address: str) -> int:
    form = {"text": "1.2.3"} if path == "/find" else FORM
    return client.request(method, f"/airlock{address}", data=form if method == "POST" else None).status_code


def test_every_route_by_every_role(clients: dict[str, httpx.Client], names: dict[str, str]) -> None:
    found = {
        (method, path): tuple(status(clients[user], method, path, address.format(**names)) for user in USERS)
        for (method, path), (address, _) in TABLE.items()
    }
    rows = [
        f"{method:<5} {path:<55}" + "".join(f"{code:>11}" for code in codes) for (method, path), codes in found.items()
    ]
    print("\n".join(["", f"{'':<61}" + "".join(f"{user:>11}" for user in USERS), *rows]))  # noqa: T201  # the table
    assert found == {route: statuses for route, (_, statuses) in TABLE.items()}


@pytest.mark.parametrize(("method", "path", "what"), AIRFLOWS, ids=str)
def test_airflow_s_own_api_has_the_same_roles(
    clients: dict[str, httpx.Client], method: str, path: str, what: str
) -> None:
    body = {"logical_date": None, "conf": {"plan_only": True}} if method == "POST" else None
    found = tuple(clients[user].request(method, path, json=body).status_code for user in USERS)
    assert found == AIRFLOWS[method, path, what], what


def test_the_console_names_only_pipelines_that_one_may_read(clients: dict[str, httpx.Client]) -> None:
    pages = {user: clients[user].get("/airlock/").text for user in (OUTSIDER, VIEWER)}
    assert f"/airlock/runs/{NIGHTLY}" in pages[VIEWER]
    assert NIGHTLY not in pages[OUTSIDER]
    assert "nordhaven" not in clients[OUTSIDER].get("/airlock/triage").text


def test_a_role_of_fab_is_a_group_of_assignees_and_its_user_is_in_the_decision_log(
    clients: dict[str, httpx.Client], names: dict[str, str], settings: Settings
) -> None:
    where = f"/airlock/reviews/{NIGHTLY}/{names['number']}"
    (seen,) = re.findall(r'name="seen" value="([^"]*)"', clients[REVIEWER].get(where).text)
    form = {"seen": seen, "answer": "keep", "why": "asked the site under FAB"}
    refused = clients[ADMIN].post(where, data=form)
    assert refused.status_code == 409, (settings.var / "api-server.log").read_text()[-3000:]
    assert f"Only these may answer reviews of {NIGHTLY}" in refused.text
    assert clients[REVIEWER].post(where, data=form).status_code == 303
    engine = create_engine(settings.ledger_url)
    with engine.connect() as connection:
        columns = decisions.c.kind, decisions.c.decided_by, decisions.c.why
        found = [tuple(row) for row in connection.execute(select(*columns).where(decisions.c.kind == "keep"))]
    engine.dispose()
    assert found == [("keep", REVIEWER, "asked the site under FAB")]


def test_a_reveal_is_logged_with_the_user_of_fab(
    clients: dict[str, httpx.Client], names: dict[str, str], settings: Settings
) -> None:
    where = f"/airlock/studies/{NIGHTLY}/{names['study_key']}"
    assert PATIENT in clients[REVIEWER].post(where, data={"reveal": "1", "why": "asked under FAB"}).text
    for user in (VIEWER, OPERATOR):
        assert PATIENT not in clients[user].get(where).text
    engine = create_engine(settings.ledger_url)
    with engine.connect() as connection:
        who = connection.scalars(select(decisions.c.decided_by).where(decisions.c.why == "asked under FAB")).all()
    engine.dispose()
    assert who == [REVIEWER]
    folder = f"runs/{NIGHTLY}/decisions/"
    copies = local_client(settings.s3_url).list_objects_v2(Bucket="airlock-workspace", Prefix=folder)
    assert copies["KeyCount"] >= 1, "a rebuilt ledger has it too"


def test_an_expired_login_is_a_sentence(airflow: FabAirflow) -> None:
    answer = httpx.get(
        f"{airflow.url}/airlock/", headers={"Authorization": "Bearer expired"}, timeout=60, trust_env=False
    )
    assert answer.status_code in {401, 403}
    assert "Traceback" not in answer.text


def test_admin_has_every_right(clients: dict[str, httpx.Client], names: dict[str, str]) -> None:
    """FAB gives its Admin the rights of all other roles, the one on identifiers included."""
    where = f"/airlock/studies/{NIGHTLY}/{names['study_key']}"
    assert PATIENT in clients[ADMIN].post(where, data={"reveal": "1", "why": "admin looks"}).text


@pytest.mark.parametrize(("user", "may_start"), [(VIEWER, False), (OPERATOR, True)])
def test_people_log_in_by_fab_s_own_form(airflow: FabAirflow, tmp_path: Path, user: str, may_start: bool) -> None:
    with open_browser(tmp_path) as page:
        page.open(f"{airflow.url}/auth/login/")
        page.write("input[name=username]", user)
        page.write("input[name=password]", PASSWORD)
        page.click("input[type=submit], button[type=submit]")
        page.shows("Dags")
        page.open(f"{airflow.url}/airlock/runs/{NIGHTLY}")
        page.shows("Books balance.")
        assert ("Redrive what this run held or rejected" in page.text()) is may_start
