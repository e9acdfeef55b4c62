"""Starting is all or nothing, what runs is used again, and stopping ends what was started and only that.

The parts are small servers of the test's own; that Airflow's parts start in the same way is shown end to end.
"""

import os
import socket
import sys
import urllib.request

import pytest

from airlock_local.components import Plan, Preparation, Service
from airlock_local.settings import read_settings
from airlock_local.stack import PortInUseError, Stack, StackError

SERVE = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), \
http.server.SimpleHTTPRequestHandler).serve_forever()"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
    except OSError:
        return False
    return True


def server(name="web", port=None, code=SERVE, fingerprint="1", needs=()):
    port = port or free_port()
    return Service(
        name=name,
        title=f"the {name} server",
        argv=(sys.executable, "-c", code, str(port)),
        environment=dict(os.environ),
        fingerprint=fingerprint,
        probe=lambda _: answers(port),
        needs=frozenset(needs),
        port=port,
        setting="AIRLOCK_WEB_PORT",
    )


def database(folder, code, state="1"):
    return Preparation(
        name="database",
        title="the database",
        argv=(sys.executable, "-c", code, str(folder / "database")),
        environment=dict(os.environ),
        marker=folder / "marker",
        state=state,
        result=folder / "database",
    )


WRITE = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text((p.read_text() if p.exists() else '') + 'x')"


@pytest.fixture
def stack(tmp_path):
    made = Stack(read_settings({"AIRLOCK_VAR": str(tmp_path / "var")}))
    yield made
    made.down()


def test_up_answers_and_down_ends_it(stack):
    web = server()
    assert stack.up(Plan((web,), ())) is True
    assert answers(web.port)
    assert stack.down() == ["web"]
    assert not answers(web.port)
    assert stack.down() == []


def test_what_is_up_is_used_again(stack):
    plan = Plan((server(),), ())
    stack.up(plan)
    before = stack.records.read()
    assert stack.up(plan) is False
    assert stack.records.read() == before


def test_another_command_finds_it_up(stack):
    plan = Plan((server(),), ())
    stack.up(plan)
    assert Stack(stack.settings).up(plan) is False


def test_a_part_that_ended_is_started_anew_with_a_notice(stack, capsys):
    plan = Plan((server("web"), server("other")), ())
    stack.up(plan)
    before = stack.records.read()
    os.kill(before["web"].pid, 9)
    while before["web"].is_alive():
        os.sched_yield()
    assert stack.list_dead() == ["web"]
    assert stack.up(plan) is True
    assert "Restarting the web server: it had ended unexpectedly" in capsys.readouterr().out
    after = stack.records.read()
    assert after["web"].pid != before["web"].pid
    assert after["other"] == before["other"]


def test_other_settings_start_a_part_anew(stack):
    port = free_port()
    stack.up(Plan((server(port=port),), ()))
    first = stack.records.read()["web"]
    assert stack.up(Plan((server(port=port, fingerprint="2"),), ())) is True
    assert not first.is_alive()


def test_a_port_in_use_names_the_setting_and_nothing_is_started(stack, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        plan = Plan((server("first"), server("second", port=taken)), (database(tmp_path, WRITE),))
        with pytest.raises(PortInUseError, match=rf"Port {taken} .* used by another program.*AIRLOCK_WEB_PORT="):
            stack.up(plan)
    assert stack.records.read() == {}
    assert not (tmp_path / "database").exists()


def test_when_one_part_fails_the_others_are_stopped_and_its_log_is_shown(stack):
    good = server("good")
    bad = server("bad", code="import sys, os; sys.exit('no such data store')")
    with pytest.raises(StackError, match=r"the bad server ended while it was starting \(exit status 1\)") as error:
        stack.up(Plan((good, bad), ()))
    assert "no such data store" in str(error.value)
    assert not answers(good.port)
    assert stack.records.read() == {}


def test_a_preparation_is_done_before_what_needs_it_and_only_once(stack, tmp_path):
    needs_it = f"import pathlib; assert pathlib.Path({str(tmp_path / 'database')!r}).exists()\n{SERVE}"
    plan = Plan((server(code=needs_it, needs=["database"]),), (database(tmp_path, WRITE),))
    stack.up(plan)
    stack.down()
    stack.up(plan)
    assert (tmp_path / "database").read_text() == "x"


def test_a_preparation_is_done_again_for_another_state_or_when_its_result_is_gone(stack, tmp_path):
    stack.up(Plan((server(),), (database(tmp_path, WRITE),)))
    assert database(tmp_path, WRITE).is_done()
    assert not database(tmp_path, WRITE, state="2").is_done()
    (tmp_path / "database").unlink()
    assert not database(tmp_path, WRITE).is_done()


def test_a_preparation_that_fails_starts_nothing_that_needs_it(stack, tmp_path):
    plan = Plan((server(needs=["database"]),), (database(tmp_path, "raise SystemExit('disk full')"),))
    with pytest.raises(StackError, match=r"the database could not be made \(exit status 1\)(.|\n)*disk full"):
        stack.up(plan)
    assert stack.records.read() == {}
    assert not (tmp_path / "marker").exists()
