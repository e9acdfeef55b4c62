"""What is refused before anything is started, what cannot be reached, and what a redrive is asked with."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airlock.records import study_key
from airlock_cli.errors import RequestError
from airlock_cli.redrive import Choice, build_redrive_conf
from airlock_cli.runs import build_run_conf
from tests.markdown import ROOT
from tests.unit.airlock.ledger.samples import NIGHTLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOTHING = Choice(run=None, study=None, reasons=(), csv=None, non_primary=None)
LIST = b"arrival_id\n" + b"0" * 32 + b"\n"
UID = "1.2.826.0.1.3680043.8.498.1"


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (("where", "1.2"), "AIRLOCK_LEDGER_URL"),
        (("held",), "AIRLOCK_LEDGER_URL"),
        (("ledger", "check"), "AIRLOCK_LEDGER_URL"),
        (("pipelines", "check"), "AIRLOCK_PIPELINES"),
        (("plan", "nightly"), "AIRLOCK_PIPELINES"),
        (("run", "nightly", "--no-wait"), "AIRLOCK_API_URL"),
    ],
)
def test_a_missing_setting_is_named_with_its_meaning(airlock: Any, arguments: Any, variable: str) -> None:
    result = airlock(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{variable} is not set. Set it to ")


@pytest.mark.parametrize("arguments", [("run",), ("no-such-command",), ("held", "--no-such-option"), ("redrive", "x")])
def test_a_wrong_call_is_a_wrong_request(airlock: Any, arguments: Any) -> None:
    assert airlock(*arguments).exit_code == 2


class TestConfOfARun:
    def test_a_window_needs_both_ends_with_their_zone(self) -> None:
        start, end = "2026-11-24T00:00:00+00:00", "2026-11-25T00:00:00Z"
        found = build_run_conf(NIGHTLY, "a/", start, end)
        assert found == {"prefix": "a/", "window_start": start, "window_end": end}
        assert build_run_conf(NIGHTLY, None, None, None) == {}
        for wrong in [(start, None), (start, "2026-11-25T00:00:00"), (start, "tomorrow")]:
            with pytest.raises(RequestError, match="--window-"):
                build_run_conf(NIGHTLY, None, *wrong)

    @pytest.mark.parametrize("command", ["run", "plan"])
    def test_a_prefix_without_its_slash_starts_no_run(self, airlock: Any, command: str) -> None:
        result = airlock(command, NIGHTLY, "--prefix", "DOE^JANE")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("--prefix must end in '/'")
        assert "DOE" not in result.stderr

    @pytest.mark.usefixtures("pipelines")
    @pytest.mark.parametrize("prefix", ["elsewhere/DOE^JANE/", "s3://elsewhere/deliveries/"])
    def test_a_prefix_outside_the_source_starts_no_run_where_the_pipeline_file_is_at_hand(
        self, airlock: Any, prefix: str
    ) -> None:
        result = airlock("run", NIGHTLY, "--prefix", prefix)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "must be inside the source s3://airlock-archive/deliveries/" in result.stderr
        assert "DOE" not in result.stderr
        assert build_run_conf(NIGHTLY, "deliveries/a/", None, None) == {"prefix": "deliveries/a/"}


class TestConfOfARedrive:
    def test_a_uid_is_hashed_before_it_leaves_the_process(self) -> None:
        conf = build_redrive_conf(NIGHTLY, Choice(None, UID, ("truncated",), None, "promote"), " repaired ")
        assert conf == {
            "redrive_study": study_key(UID),
            "redrive_reasons": ["truncated"],
            "redrive_why": "repaired",
            "redrive_non_primary": "promote",
        }
        assert build_redrive_conf(NIGHTLY, Choice(None, study_key(UID), (), None, None), "x")[
            "redrive_study"
        ] == study_key(UID)

    @pytest.mark.usefixtures("pipelines")
    def test_a_file_of_this_machine_is_put_into_the_workspace(self, s3: Any, tmp_path: Path) -> None:
        file = tmp_path / "edited.csv"
        file.write_bytes(LIST)
        address = build_redrive_conf(NIGHTLY, Choice(None, None, (), str(file), None), "x")["redrive_csv"]
        bucket, _, key = address.removeprefix("s3://").partition("/")
        assert key.startswith(f"runs/{NIGHTLY}/redrives/")
        assert key.endswith(".csv")
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == LIST

    @pytest.mark.usefixtures("s3")
    @pytest.mark.parametrize("kind", ["clinical", "ccda"])
    def test_a_list_has_the_columns_of_its_pipelines_kind(self, kind: str, pipelines: Path, tmp_path: Path) -> None:
        shutil.copy(ROOT / f"include/pipelines/{kind}.yaml", pipelines)
        file = tmp_path / "edited.csv"
        file.write_bytes(b"line,resource_id,arrival_id\n7,p1," + b"0" * 32 + b"\n")
        assert build_redrive_conf(kind, Choice(None, None, (), str(file), None), "x")["redrive_csv"].endswith(".csv")
        with pytest.raises(RequestError, match="2 columns in line 1"):
            build_redrive_conf(NIGHTLY, Choice(None, None, (), str(file), None), "x")

    @pytest.mark.usefixtures("pipelines")
    def test_a_file_that_is_no_such_list_is_refused_before_it_is_put_there(self, s3: Any, tmp_path: Path) -> None:
        file = tmp_path / "edited.csv"
        file.write_bytes(b"name,arrival_id\n")
        with pytest.raises(RequestError, match=r"edited\.csv: redrive_csv has 1 columns in line 1"):
            build_redrive_conf(NIGHTLY, Choice(None, None, (), str(file), None), "x")
        listed = s3.list_objects_v2(Bucket="airlock-workspace", Prefix=f"runs/{NIGHTLY}/redrives/").get("Contents", [])
        assert hashlib.sha256(file.read_bytes()).hexdigest()[:16] not in str(listed)

    @pytest.mark.usefixtures("pipelines")
    @pytest.mark.parametrize(
        ("choice", "why", "told"),
        [
            (NOTHING, "x", "Nothing is chosen"),
            (Choice("a", None, (), None, None), " ", "--why is empty"),
            (Choice(None, None, ("no_reason",), None, None), "x", "not a reason code"),
            (Choice(None, None, (), "s3://B/x.csv", None), "x", "no S3 address|not an S3 address"),
            (Choice(None, None, (), "/no/such.csv", None), "x", "/no/such.csv cannot be read"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, choice: Choice, why: str, told: str) -> None:
        with pytest.raises(RequestError, match=told):
            build_redrive_conf(NIGHTLY, choice, why)


class TestOutOfReach:
    def test_a_ledger_that_does_not_answer(
        self, airlock: Any, closed_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", f"postgresql://ada:swordfish@127.0.0.1:{closed_port}/airlock")
        for arguments in (("where", "1.2"), ("ledger", "check"), ("ledger", "upgrade")):
            result = airlock(*arguments)
            assert result.exit_code == 3
            assert str(closed_port) in result.stderr
            assert "swordfish" not in result.output

    def test_a_place_without_a_ledger_is_found_wrong_by_check_alone(
        self, airlock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", f"sqlite:///{tmp_path}/none.db")
        assert airlock("ledger", "check").exit_code == 1
        assert airlock("held").exit_code == 2
        assert airlock("ledger", "upgrade").exit_code == 0
        assert airlock("ledger", "check").exit_code == 0

    def test_an_airflow_that_does_not_answer(
        self, airlock: Any, closed_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._log_in(monkeypatch, f"http://127.0.0.1:{closed_port}")
        result = airlock("run", "nightly", "--no-wait")
        assert result.exit_code == 3
        assert "AIRLOCK_API_URL" in result.stderr
        assert "swordfish" not in result.output

    def test_a_server_that_is_not_airflow(
        self, airlock: Any, some_server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._log_in(monkeypatch, some_server)
        assert airlock("run", "nightly", "--no-wait").exit_code == 3
        monkeypatch.setenv("AIRLOCK_API_TOKEN", "t")
        assert airlock("run", "nightly", "--no-wait").exit_code == 2, "it knows no such DAG"

    @pytest.mark.usefixtures("pipelines")
    def test_an_s3_that_does_not_answer(
        self, airlock: Any, s3: Any, closed_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        result = airlock("report", NIGHTLY, "a")
        assert result.exit_code == 3
        assert "(GetObject: EndpointConnectionError)" in result.stderr
        assert "Check your AWS credentials and AWS_ENDPOINT" in result.stderr

    @staticmethod
    def _log_in(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", "sqlite:////none.db")
        monkeypatch.setenv("AIRLOCK_API_URL", url)
        monkeypatch.setenv("AIRLOCK_API_USER", "ada")
        monkeypatch.setenv("AIRLOCK_API_PASSWORD", "swordfish")


@pytest.fixture
def some_server(tmp_path: Path) -> Iterator[str]:
    """A web server that knows nothing of Airflow."""
    with served(partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as url:
        yield url


@contextmanager
def served(handler: Callable[..., SimpleHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Airflow(SimpleHTTPRequestHandler):
    """Airflow's REST API with one DAG, nightly, which nobody has asked for."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = {
            "/api/v2/dags": {"dags": [{"dag_id": NIGHTLY}], "total_entries": 1},
            "/api/v2/importErrors": {"import_errors": []},
        }.get(path)
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(json.dumps(found or {"detail": "not found"}).encode())


@pytest.mark.parametrize("command", [("run", "--no-wait"), ("redrive", "--why", "x", "--reason", "truncated")])
def test_a_pipeline_that_airflow_does_not_know_is_an_error_with_the_nearest_name(
    airlock: Any, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", "sqlite:////none.db")
    monkeypatch.setenv("AIRLOCK_API_TOKEN", "t")
    with served(_Airflow) as url:
        monkeypatch.setenv("AIRLOCK_API_URL", url)
        result = airlock(command[0], "nigthly", *command[1:])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Airflow does not know the pipeline 'nigthly': did you mean nightly?\n" in result.stderr


class TestPipelinesCheck:
    def test_good_files_are_listed_with_their_connections(self, airlock: Any, pipelines: Path) -> None:
        result = airlock("pipelines", "check")
        assert result.exit_code == 0
        assert "aws_default" in result.stdout

    def test_the_connections_of_notifications_are_listed_too(self, airlock: Any, pipelines: Path) -> None:
        file = pipelines / "nightly.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"notify": [{"slack": "#archive"}]}))
        [found] = json.loads(airlock("pipelines", "check", "--json").stdout)["pipelines"]
        assert "slack_api_default" in found["connections"]

    def test_each_bad_file_is_named_and_the_status_says_so(self, airlock: Any, pipelines: Path) -> None:
        (pipelines / "bad.yaml").write_text("kind: imaging\nname: Bad\n")
        result = airlock("pipelines", "check", str(pipelines))
        assert result.exit_code == 1
        assert "bad.yaml" in result.stdout
        assert airlock("pipelines", "check", str(pipelines / "none")).exit_code == 2

    @pytest.mark.usefixtures("asks")
    @pytest.mark.parametrize(
        ("core", "warns"),
        [
            ({}, "everybody who may change its runs may answer its reviews. Airflow's configuration here does not say"),
            ({"simple_auth_manager_users": "admin:admin,ada:op,bob:viewer,eve:user:ward"}, "each of Airflow's 3 users"),
            ({"simple_auth_manager_users": "admin:admin, bob:Viewer"}, None),
            ({"auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"}, None),
            ({"auth_manager": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"}, "everybody who"),
            ({"simple_auth_manager_users": "admin:admin", "simple_auth_manager_all_admins": "True"}, "everybody who"),
        ],
    )
    def test_a_review_that_several_people_may_answer_is_warned_of(
        self, airlock: Any, configure: Any, core: dict[str, str], warns: str | None
    ) -> None:
        configure(core)
        result = airlock("pipelines", "check", "--json")
        assert result.exit_code == 0
        warnings = json.loads(result.stdout)["warnings"]
        assert len(warnings) == (warns is not None)
        assert all(
            text.startswith("Pipeline 'asks' has no review.assignees") and str(warns) in text for text in warnings
        )

    @pytest.fixture
    def asks(self, pipelines: Path) -> None:
        """Two pipelines that ask people: anybody, and a user."""
        content = yaml.safe_load((ROOT / "include/pipelines/ccda.yaml").read_text())
        for name, review in (("asks", {"by": "the team"}), ("named", {"by": "the team", "users": ["ada"]})):
            (pipelines / f"{name}.yaml").write_text(yaml.safe_dump(content | {"name": name, "review": review}))

    @pytest.fixture(params=["environment", "file"])
    def configure(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[dict[str, str]], None]:
        """Set options of Airflow's section core, in each of the places where Airflow has them."""

        def to_environment(core: dict[str, str]) -> None:
            for name, value in core.items():
                monkeypatch.setenv(f"AIRFLOW__CORE__{name.upper()}", value)

        def to_file(core: dict[str, str]) -> None:
            lines = [f"{name} = {value}" for name, value in core.items()]
            (tmp_path / "airflow.cfg").write_text("\n".join(["[core]", *lines]))
            monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))

        return to_file if request.param == "file" else to_environment

    @pytest.mark.usefixtures("asks")
    def test_a_broken_configuration_of_airflow_is_named_and_not_repeated(
        self, airlock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = tmp_path / "airflow.cfg"
        config.write_text("sql_alchemy_conn = CANARY")
        monkeypatch.setenv("AIRFLOW_CONFIG", str(config))
        result = airlock("pipelines", "check")
        assert result.exit_code == 2
        assert "airflow.cfg cannot be read as Airflow's configuration" in result.stderr
        assert "CANARY" not in result.stderr


def test_the_ledger_gives_back_what_a_run_holds(told: Any, airlock: Any) -> None:
    result = airlock("ledger", "release", NIGHTLY, "scheduled__a")
    assert result.exit_code == 0
    assert "0 arrivals given back" in result.stderr
    result = airlock("ledger", "release", NIGHTLY, "none")
    assert result.exit_code == 2
    assert result.stderr.startswith("Pipeline nightly has no run 'none'. ")


def test_what_a_destination_did_not_take_is_due_again(told: Any, airlock: Any) -> None:
    result = airlock("ledger", "requeue", NIGHTLY)
    assert (result.exit_code, result.stderr[:21]) == (0, "0 messages are due. T")


@pytest.mark.usefixtures("told", "pipelines", "s3")
def test_what_was_released_is_matched_with_new_routes(airlock: Any) -> None:
    result = airlock("ledger", "requeue", NIGHTLY, "--match-again", "--run", "scheduled__a")
    assert (result.exit_code, result.stderr[:21]) == (0, "0 released contracts ")
    assert airlock("ledger", "requeue", NIGHTLY, "--match-again").exit_code == 0
    for wrong, said in (
        (("--match-again", "--run", "none"), "Pipeline nightly has no run 'none'. "),
        (("--match-again", "--destination", "s3://to/"), "--match-again and --edge are about all destinations. "),
        (("--match-again", "--edge"), "--match-again is about routes, --edge about the edge. "),
        (("--run", "scheduled__a"), "--run limits --match-again or --edge. "),
    ):
        result = airlock("ledger", "requeue", NIGHTLY, *wrong)
        assert result.exit_code == 2
        assert result.stderr.startswith(said)


def test_help_loads_nothing_that_takes_long() -> None:
    code = "import sys; from airlock_cli.app import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"airflow", "boto3", "polars", "sqlalchemy", "httpx", "pydantic", "airlock.records"}
    assert not heavy & set(shown.stdout.split())


def test_the_edge_is_told_again_what_became_of_its_objects(told: Any, airlock: Any) -> None:
    result = airlock("ledger", "requeue", NIGHTLY, "--edge")
    assert (result.exit_code, result.stderr[:43]) == (2, "No run of pipeline nightly has had an edge.")
    told.note_edge(NIGHTLY, "https://sqs.eu-west-1.amazonaws.com/123456789012/edge")
    before = told.count_untold(NIGHTLY).objects
    result = airlock("ledger", "requeue", NIGHTLY, "--edge", "--run", "scheduled__a")
    assert (result.exit_code, result.stderr[:23]) == (0, "The edge is told about ")
    assert told.count_untold(NIGHTLY).objects > before
    assert airlock("ledger", "requeue", NIGHTLY, "--edge", "--run", "none").exit_code == 2
