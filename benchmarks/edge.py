"""Throughput of reception over DICOM: the edge side by side with dcmtk's storescp, Orthanc and pynetdicom's own AE.

    python -m benchmarks.edge --json var/edge.json

One sender (`benchmarks.dicom_sender`) sends small CT images and large multi-frame ones over one and over four
associations, with TLS and client certificates and without. All receivers run at the same time and take turns; the disk
is flushed between two turns, so that nobody pays for what another left unflushed. A receiver's figure is the median of
its rounds, from the first byte to the last response. S3 is a SeaweedFS on loopback, which uses the same cores.

storescp flushes nothing. Orthanc flushes each file, and the edge and pynetdicom's handlers flush file and folder. The
bar: the edge has half of storescp's throughput with ``store: spool``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.servers.certificates import Authority

from benchmarks.dicom_receivers import BUCKET, RECEIVERS, TITLE, Place
from benchmarks.dicom_sender import Certificates
from benchmarks.machine import facts
from benchmarks.seaweed import client, seaweed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.dicom_receivers import Receiver

MIB = 1024**2
ENCRYPTIONS = ("plain", "tls")
BAR = 0.5  # of storescp's throughput


@dataclass(frozen=True)
class Load:
    """What is sent in one turn: objects of a kind over each of so many associations."""

    kind: str
    objects: int
    associations: int

    @property
    def title(self) -> str:
        """How the table names it."""
        return f"{self.associations} x {self.objects} {self.kind}"


FULL = (Load("ct", 200, 1), Load("ct", 50, 4), Load("multiframe", 2, 1), Load("multiframe", 1, 4))
QUICK = (Load("ct", 50, 1), Load("ct", 20, 4), Load("multiframe", 1, 1))


@dataclass(frozen=True)
class Turn:
    """The figures of one turn.

    Attributes
    ----------
    mib_per_second, objects_per_second
        From the first byte to the last response.
    drained_mib_per_second
        From the first byte until all objects are on S3; None where none goes there.
    receiver_cpu, sender_cpu
        Seconds for a GiB; the receiver's until all objects are on S3.
    receiver_memory
        The sum of the peaks of resident memory of the receiver's processes in this turn, in MiB. Pages that processes
        share count for each.
    """

    mib_per_second: float
    objects_per_second: float
    drained_mib_per_second: float | None
    receiver_cpu: float
    sender_cpu: float
    receiver_memory: float


class Series:
    """Numbers series, so that no two turns send the same instance."""

    def __init__(self) -> None:
        self._last = 0

    def take(self) -> int:
        """Return the next number."""
        self._last += 1
        return self._last


def send(receiver: Receiver, load: Load, series: Series, tls: Certificates | None) -> Turn:
    """Send a load to a receiver.

    Raises
    ------
    RuntimeError
        If an object is not accepted.
    """
    files = [] if tls is None else [str(tls.authority), str(tls.certificate), str(tls.key)]
    senders = [
        _start_sender(load.kind, load.objects, series.take(), "127.0.0.1", receiver.port, TITLE, *files)
        for _ in range(load.associations)
    ]
    for sender in senders:
        sender.stdout.readline()  # it is ready
    os.sync()
    cpu, began = receiver.cpu_seconds(), time.monotonic()
    with receiver.watch_memory() as peaks:
        for sender in senders:
            sender.stdin.write("go\n")
            sender.stdin.flush()
        answers = [sender.communicate()[0] for sender in senders]
        seconds = time.monotonic() - began
        receiver.wait_until_drained()
        drained = time.monotonic() - began
    cpu = receiver.cpu_seconds() - cpu
    if any(sender.returncode for sender in senders):
        raise RuntimeError(f"objects were not accepted: {answers}")
    figures = [json.loads(answer) for answer in answers]
    used = cpu, sum(peaks.values())
    return _make_turn(load, figures, seconds, None if receiver.spool is None else drained, used)


def _start_sender(*arguments: object) -> Any:
    command = [sys.executable, "-m", "benchmarks.dicom_sender", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603


def _make_turn(
    load: Load, figures: list[dict[str, Any]], seconds: float, drained: float | None, used: tuple[float, float]
) -> Turn:
    cpu, memory = used
    sent = sum(one["bytes"] for one in figures) / MIB
    seconds = min(seconds, max(one["seconds"] for one in figures))  # without the senders' own end
    return Turn(
        mib_per_second=sent / seconds,
        objects_per_second=load.objects * load.associations / seconds,
        drained_mib_per_second=None if drained is None else sent / drained,
        receiver_cpu=cpu / sent * 1024,
        sender_cpu=sum(one["cpu_seconds"] for one in figures) / sent * 1024,
        receiver_memory=memory,
    )


def measure(
    loads: Sequence[Load], names: Sequence[str], rounds: int, folder: Path, encryptions: Sequence[str]
) -> dict[str, Any]:
    """Return the medians by TLS, load and receiver.

    Each load begins with new receivers and empty folders: what was stored before must not fill the disk.
    """
    found: dict[str, Any] = {encryption: {} for encryption in encryptions}
    certificates, series = _write_certificates(folder / "certificates"), Series()
    for encryption, load in product(encryptions, loads):
        with tempfile.TemporaryDirectory(dir=folder) as own, _s3(Path(own)) as endpoint:
            place = Place(Path(own) / "receivers", endpoint, certificates if encryption == "tls" else None)
            place.folder.mkdir()
            found[encryption][load.title] = _measure_load(place, load, names, rounds, series)
    return found


def _measure_load(
    place: Place, load: Load, names: Sequence[str], rounds: int, series: Series
) -> dict[str, dict[str, Any]]:
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    with ExitStack() as running:
        receivers = {name: running.enter_context(RECEIVERS[name][1](place)) for name in names}
        for receiver in receivers.values():
            send(receiver, Load("ct", 5, 1), series, place.tls)  # warms up
        for number in range(rounds):
            for name in names if number % 2 == 0 else reversed(names):
                turns[name].append(send(receivers[name], load, series, place.tls))
                _report(load, name, turns[name][-1])
    return {name: _medians(rows) for name, rows in turns.items()}


def _report(load: Load, name: str, turn: Turn) -> None:
    sys.stderr.write(f"{load.title} {name}: {turn.mib_per_second:.0f} MiB/s\n")


def _medians(turns: Sequence[Turn]) -> dict[str, Any]:
    rows = [asdict(turn) for turn in turns]
    medians = {name: None if rows[0][name] is None else round(median(row[name] for row in rows), 2) for name in rows[0]}
    speeds = [round(turn.mib_per_second, 1) for turn in turns]
    return medians | {"rounds": speeds}


@contextmanager
def _s3(folder: Path) -> Iterator[str]:
    with seaweed(folder / "s3", patience=1) as server:
        client(server.endpoint).create_bucket(Bucket=BUCKET)
        yield server.endpoint


def _write_certificates(folder: Path) -> Certificates:
    folder.mkdir()
    authority = Authority(folder, "authority")
    both = authority.issue("both")
    return Certificates(authority.certificate, both.certificate, both.key)


def table(found: dict[str, Any]) -> str:
    """Return the figures as text."""
    lines = []
    for encryption, by_load in found["figures"].items():
        for load, rows in by_load.items():
            lines += ["", f"{load}, {encryption}", _HEADS]
            reference = rows.get("storescp", {}).get("mib_per_second")
            lines += [_row(name, row, reference) for name, row in rows.items()]
    return "\n".join(lines)


_HEADS = (
    f"{'':38}{'MiB/s':>8}{'objects/s':>11}{'of storescp':>13}{'on S3 MiB/s':>13}{'CPU s/GiB':>11}{'sender':>8}"
    f"{'peak MiB':>10}"
)


def _row(name: str, row: dict[str, Any], reference: float | None) -> str:
    drained = row["drained_mib_per_second"]
    share = "-" if reference is None else f"{row['mib_per_second'] / reference:.2f}"
    return (
        f"{RECEIVERS[name][0]:38}{row['mib_per_second']:8.0f}{row['objects_per_second']:11.1f}{share:>13}"
        f"{'-' if drained is None else f'{drained:.0f}':>13}{row['receiver_cpu']:11.2f}{row['sender_cpu']:8.2f}"
        f"{row['receiver_memory']:10.0f}"
    )


def judge(found: dict[str, Any]) -> list[str]:
    """Return a line for each load: whether the edge has half of storescp's throughput with durability on."""
    lines = []
    for encryption, by_load in found["figures"].items():
        for load, rows in by_load.items():
            if {"storescp", "edge-spool"} <= rows.keys():
                share = rows["edge-spool"]["mib_per_second"] / rows["storescp"]["mib_per_second"]
                lines.append(f"{'met' if share >= BAR else 'MISSED'}: {load}, {encryption}: {share:.2f} of storescp's")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge", description="Measure reception over DICOM.")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--quick", action="store_true", help="send less")
    parser.add_argument("--encryption", choices=ENCRYPTIONS, action="append", help="measure only this; can be repeated")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each receiver for each load")
    parser.add_argument("--only", choices=RECEIVERS, action="append", help="run only this receiver; can be repeated")
    parser.add_argument("--folder", type=Path, default=Path("var"), help="the disk to store on")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in RECEIVERS if given.only is None or name in given.only]
    loads = QUICK if given.quick else FULL
    machine = facts()
    with tempfile.TemporaryDirectory(prefix="edge-bench-", dir=given.folder.resolve()) as folder:
        figures = measure(loads, names, given.rounds, Path(folder), given.encryption or ENCRYPTIONS)
    found = {"schema": "airlock.edge-bench/1", "machine": machine, "rounds": given.rounds, "figures": figures}
    found["versions"] = {"storescp": _version("storescp"), "Orthanc": _version("Orthanc")}
    text = f"{machine['cores']} cores, {machine['cpu']}, load {machine['load']} at the start"
    sys.stdout.write("\n".join([text, table(found), "", *judge(found), ""]))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


def _version(program: str) -> str:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    return answer.strip().splitlines()[0].strip("$ ") if answer.strip() else "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
