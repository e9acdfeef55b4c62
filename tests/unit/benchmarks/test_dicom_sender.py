"""The sender of `benchmarks.edge` and its sink: what is sent arrives whole, and each object gets its response."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from benchmarks import edge
from benchmarks.dicom_sender import Item, Sender, make_item

from tests.servers.ports import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def sink(folder: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.dicom_sink", str(port), str(folder)]
    with subprocess.Popen(command) as process:
        try:
            until("the sink listens", lambda: listens(port))
            yield port
        finally:
            process.terminate()


def listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_what_is_sent_arrives_byte_for_byte(tmp_path: Path) -> None:
    image = make_item("ct", 1, 7)
    items = [image, Item(image.sop_class_uid, "1.2.3", image.transfer_syntax, (b"ab" * 70_000,))]
    with (
        sink(tmp_path) as port,
        Sender(("127.0.0.1", port), "SINK", [(image.sop_class_uid, image.transfer_syntax)]) as sender,
    ):
        assert [sender.store(item) for item in items] == [0, 0]
    stored = sorted(path.read_bytes() for path in tmp_path.iterdir())
    assert stored == sorted(b"".join(item.data_set) for item in items)


def test_the_bar_is_half_of_storescps_with_durability_on() -> None:
    rows = {"storescp": {"mib_per_second": 100.0}, "edge-spool": {"mib_per_second": 49.0}}
    found = {"figures": {"plain": {"1 x 10 ct": rows}}}
    assert edge.judge(found) == ["MISSED: 1 x 10 ct, plain: 0.49 of storescp's"]
    rows["edge-spool"]["mib_per_second"] = 50.0
    assert edge.judge(found) == ["met: 1 x 10 ct, plain: 0.50 of storescp's"]
