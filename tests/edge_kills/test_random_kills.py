"""kill -9 at random moments under load, a full disk, S3 out of reach: each acknowledged object arrives on S3."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.edge_kills.load import Load
from tests.edge_kills.process import SPOOL, EdgeProcess, S3Objects, running, stored_file
from tests.servers.proxy import proxies
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.proxy import Proxy

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(3600)]
KILLS = int(os.environ.get("EDGE_KILLS", "100"))  # for each kind of storage
LONGEST_LIFE = 1.0  # seconds from listening to the kill
OF_UPLOADS = 0.3  # share of the kills that are of an uploading process
CUT_SECONDS = 10
DISK_MIB = 24
DRAIN = 300  # seconds


def check_arrival(load: Load, objects: S3Objects, title: str) -> None:
    """Compare what was acknowledged with what is on S3: each object once, with the bytes that were sent."""
    expected = Counter(stored_file(item) for item in load.acknowledged)
    there = Counter(objects.bodies())
    lost = set(expected) - set(there)
    figures = ", ".join(f"{name} {number}" for name, number in sorted(load.figures.items()))
    sys.stderr.write(f"\n{title}: {figures}, on S3 {there.total()}\n")
    assert not lost, f"{len(lost)} acknowledged objects are not on S3"
    assert max(expected.values()) == 1, "a peer got two successes for one object"
    assert there == expected, "S3 has an object twice, or one that was not acknowledged after all was sent again"


@pytest.mark.parametrize("store", ["spool", "s3"])
def test_nothing_acknowledged_is_lost_by_kills_at_random(s3: str, tmp_path: Path, store: str) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    prefix = f"random-{store}/"
    edge, objects = EdgeProcess(tmp_path / "edge", s3, prefix, store=store), S3Objects(s3, prefix)
    load, killed = Load(edge.port), Counter[str]()
    with running(edge), load.sending():
        while killed.total() < KILLS:
            time.sleep(chance.uniform(0, LONGEST_LIFE))  # the moment is what is drawn
            if store == "spool" and chance.random() < OF_UPLOADS:
                for pid in edge.uploads():
                    with suppress(ProcessLookupError):  # it has ended meanwhile
                        os.kill(pid, signal.SIGKILL)
                        killed["uploads"] += 1
            else:
                edge.kill()
                killed["edge"] += 1
                edge.start()
                assert edge.wait_until_listening(), edge.log.read_text()[-2000:]
    edge.start()
    edge.wait_until_listening()
    edge.wait_until_drained(DRAIN)
    edge.stop()
    check_arrival(load, objects, f"store {store}, seed {seed}, kills {dict(killed)}")


@contextmanager
def cut_off_s3(s3: str) -> Iterator[Proxy]:
    """Yield a proxy before S3."""
    with proxies(1) as [proxy]:
        address = urlsplit(s3)
        proxy.target = (str(address.hostname), address.port or 80)
        yield proxy


@pytest.mark.parametrize("store", ["spool", "s3"])
def test_nothing_acknowledged_is_lost_while_s3_is_cut_off(s3: str, tmp_path: Path, store: str) -> None:
    prefix = f"away-{store}/"
    with cut_off_s3(s3) as proxy:
        edge, objects = EdgeProcess(tmp_path / "edge", proxy.url, prefix, store=store), S3Objects(s3, prefix)
        load = Load(edge.port)
        with running(edge):
            with load.sending():
                until("objects are acknowledged", lambda: load.figures["acknowledged"] > 50, 60)
                proxy.cut_after(3)  # in the middle of requests
                before = load.figures["acknowledged"]
                time.sleep(CUT_SECONDS)
                during = load.figures["acknowledged"] - before
                proxy.restore()
                until(
                    "objects are acknowledged again", lambda: load.figures["acknowledged"] > before + during + 50, 120
                )
            edge.wait_until_drained(DRAIN)
    assert (during > PEERS_IN_FLIGHT) == (store == "spool"), f"{during} acknowledged while S3 was cut off"
    check_arrival(load, objects, f"S3 cut off for {CUT_SECONDS} s, store {store}, {during} acknowledged meanwhile")


PEERS_IN_FLIGHT = 8  # their objects may have been on S3 before the cut


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Yield a file system of some MiB in memory."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], check=False)
    if made.returncode:
        pytest.skip("a small file system cannot be mounted here: run as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("refuse_percent", [90, 98.9])
def test_a_full_disk_refuses_and_loses_nothing(s3: str, tmp_path: Path, refuse_percent: float) -> None:
    """Above 98 % the book cannot be written either, until the reserve is given up."""
    prefix = f"full-{refuse_percent}/"
    changes = {"store": "spool", "spool": SPOOL | {"refuse_percent": refuse_percent}}
    with cut_off_s3(s3) as proxy, small_disk(tmp_path / "disk") as disk:
        proxy.cut_after(0)
        edge = EdgeProcess(tmp_path / "edge", proxy.url, prefix, state=str(disk / "state"), **changes)
        objects, load = S3Objects(s3, prefix), Load(edge.port)
        with running(edge):
            with load.sending():
                until("objects are refused", lambda: load.figures["refused with A700"] > 20, 120)
                full = load.figures["acknowledged"]
                proxy.restore()
                until("objects are acknowledged again", lambda: load.figures["acknowledged"] > full + 50, 120)
            edge.wait_until_drained(DRAIN)
            until("the reserve is made again", (edge.state / "reserve").exists, 60)
    given_up = edge.log.read_text().count("the reserve is given up")
    assert given_up or refuse_percent < 98, edge.log.read_text()[-2000:]
    title = f"disk of {DISK_MIB} MiB, refused above {refuse_percent} %, {full} until it was full"
    check_arrival(load, objects, f"{title}, reserve given up {given_up} times")
