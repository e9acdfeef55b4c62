"""What was started is found again and ended with all that it forked; nobody else's process ever is."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from airlock_local.processes import Records, end_processes, launch, read_start

WAIT = "import sys, time; print('up', flush=True); time.sleep(60)"
# A child in a process group of its own, as Airflow's task supervisor makes them, that also ignores SIGTERM.
STUBBORN = """
import os, signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", deaf], process_group=0)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def start_python(code, log="it.log"):
        running, command = launch(
            [sys.executable, "-c", code], os.environ, tmp_path, tmp_path / "log" / log, patience=0.5
        )
        started.append(running)
        return running, command

    yield start_python
    end_processes(started)


def first_line(running):
    while not (text := Path(running.log).read_text()).endswith("\n"):
        os.sched_yield()
    return text.splitlines()[0]


def test_a_started_process_is_alive_until_it_is_ended(start):
    running, command = start(WAIT)
    assert running.is_alive()
    end_processes([running])
    assert not running.is_alive()
    assert command.wait(5) == -15


def test_a_pid_that_now_belongs_to_somebody_else_is_not_ours(start):
    bystander, _ = start(WAIT)
    recycled = dataclasses.replace(bystander, started="an earlier moment")
    assert not recycled.is_alive()
    assert recycled.members() == []
    end_processes([recycled])
    assert bystander.is_alive()


def test_nothing_is_ours_after_a_reboot(start):
    bystander, _ = start(WAIT)
    count = bystander.started.rpartition(" ")[2]
    before_reboot = dataclasses.replace(bystander, started=f"another-boot-id {count}")
    end_processes([before_reboot])
    assert bystander.is_alive()


def test_children_in_other_process_groups_end_with_it(start):
    running, _ = start(STUBBORN)
    child = int(first_line(running))
    assert len(running.members()) == 2
    end_processes([running])
    assert read_start(child) is None


def test_children_are_found_when_the_parent_was_killed(start):
    running, command = start(STUBBORN)
    child = int(first_line(running))
    command.kill()
    command.wait(5)
    assert not running.is_alive()
    assert [process.pid for process in running.members()] == [child]
    end_processes([running])
    assert read_start(child) is None


def test_a_zombie_is_not_alive():
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet collected
    assert read_start(process.pid) is None
    process.wait()


def test_the_listener_on_a_port_is_told_from_another_process(start):
    listener, _ = start(
        "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    other, _ = start(WAIT, log="other.log")
    port = int(first_line(listener))
    assert listener.listens_on(port)
    assert not other.listens_on(port)
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        assert not listener.listens_on(mine.getsockname()[1])


def test_the_log_of_the_process_before_is_kept(start, tmp_path):
    start("print('first')")[1].wait(5)
    start("print('second')")[1].wait(5)
    assert (tmp_path / "log/it.log").read_text() == "second\n"
    assert (tmp_path / "log/it.previous.log").read_text() == "first\n"


def test_records_survive_the_command_that_wrote_them(start, tmp_path):
    running, _ = start(WAIT)
    Records(tmp_path / "run").write("it", running)
    assert Records(tmp_path / "run").read() == {"it": running}
    Records(tmp_path / "run").forget("it")
    assert Records(tmp_path / "run").read() == {}
