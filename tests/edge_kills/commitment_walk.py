"""A walk over the calls of storage commitment: the request, Airlock's word by SQS, and the result."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
from pydicom.uid import generate_uid

from tests.edge_kills.calls import Plan, read_calls
from tests.edge_kills.items import make_small
from tests.edge_kills.process import CREDENTIALS, PATIENCE, EdgeProcess, running, send_all
from tests.servers.edge import BUCKET, CALLER
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.committed import Peer

ITEMS = [make_small(number) for number in (1, 2, 3)]
IMPORTED, FAILED, UNDECIDED = (item.sop_instance_uid for item in ITEMS)
NEVER_SENT = make_small(4).sop_instance_uid
RESULT = {IMPORTED: None, FAILED: 0x0110, NEVER_SENT: 0x0112}
_EFFECTS = ("sqlite COMMIT", "send", "aws")
_GONE = (AssertionError, AttributeError, RuntimeError, ValueError, OSError)  # of pynetdicom: the edge was killed


@dataclass
class CommitmentWalk:
    """The kills at the calls of commitment.

    Attributes
    ----------
    s3, sqs
        The endpoints.
    folder
        For the edges.
    peer
        Listens for results all the time.
    figures
        Counts of what happened.
    """

    s3: str
    sqs: str
    folder: Path
    peer: Peer
    figures: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        session = boto3.Session(*CREDENTIALS.values(), region_name="us-east-1")
        self._client: Any = session.client("sqs", endpoint_url=self.sqs)

    def store_items(self) -> None:
        """Send the objects to an edge, of whose state folder each kill takes a copy."""
        edge = self._make("first")
        with running(edge):
            assert send_all(edge.port, ITEMS) == ITEMS
        with closing(sqlite3.connect(edge.state / "book.sqlite")) as book:
            self._keys = dict(book.execute("SELECT sop_instance_uid, s3_key FROM received").fetchall())

    def list_calls(self) -> dict[int, str]:
        """Return the calls of a run without a kill, from the first request on, by their numbers.

        Rows have no effect before their COMMIT: of a transaction that is the only call. The calls of the start are
        those of `tests.edge_kills.walk`.
        """
        edge, exchange, log = self._begin("none")
        with running(edge, self._plan(edge, log)):
            self.peer.port = edge.port
            first = len(read_calls(log))
            exchange.ask()
            self._tell(exchange)
            until("the results have come", exchange.is_done, PATIENCE)
            calls = dict(enumerate(read_calls(log), 1))
        exchange.check()
        return {number: name for number, name in calls.items() if number > first and name.startswith(_EFFECTS)}

    def kill_at(self, number: int, side: str) -> None:
        """Kill the process before or after a call; afterwards the requests have their results all the same."""
        edge, exchange, log = self._begin(f"{number}-{side}")
        marker = edge.folder / "killed"
        edge.start(self._plan(edge, log, number, side, str(marker)))
        try:
            assert edge.wait_until_listening() or marker.exists(), edge.log.read_text()
            self.peer.port = edge.port
            exchange.ask()
            self._tell(exchange)
            until("it is killed or done", lambda: marker.exists() or exchange.is_done(), PATIENCE)
            self.figures["killed" if marker.exists() else "not reached"] += 1
            if marker.exists():
                edge.wait_for_end()
                edge.start()
                assert edge.wait_until_listening(), edge.log.read_text()
            self.figures["requests acknowledged before the kill"] += len(exchange.acknowledged)
            exchange.ask()
            assert len(exchange.acknowledged) == 2, "a restarted edge does not take a request"
            until("the results have come", exchange.is_done, PATIENCE)
        finally:
            edge.kill()
        exchange.check()
        self.figures["requests"] += 2
        self.figures["results sent twice"] += len(self.peer.results[exchange.decided]) - 1

    def _begin(self, name: str) -> tuple[EdgeProcess, Exchange, Path]:
        edge = self._make(name)
        shutil.copytree(self.folder / "first/state", edge.state)
        return edge, Exchange(self.peer, self._client, self._queue_url, edge.state), edge.folder / "calls"

    def _make(self, name: str) -> EdgeProcess:
        """Return an edge with a queue of its own; what a killed one had taken comes again after a second."""
        made = self._client.create_queue(QueueName=f"edge-{name}", Attributes={"VisibilityTimeout": "1"})
        self._queue_url = made["QueueUrl"]
        peer = {"ae_title": CALLER, "addresses": ["127.0.0.1"], "reports_to": f"127.0.0.1:{self.peer.listens_on}"}
        commitment = {"queue_url": self._queue_url, "endpoint_url": self.sqs, "unknown_minutes": 0}
        changes = {"peers": [peer], "commitment": commitment, "manifests": {"quiet_seconds": 3600}}
        return EdgeProcess(self.folder / name, self.s3, "commitment/", **changes)

    def _plan(self, edge: EdgeProcess, log: Path, *kill: Any) -> Plan:
        return Plan("run", edge.port, str(log), *kill, results_port=self.peer.listens_on)

    def _tell(self, exchange: Exchange) -> None:
        """Say what became of two of the objects."""
        assert exchange.decided not in self.peer.results, "it is answered before Airlock has decided"
        told = [
            {"bucket": BUCKET, "key": self._keys[uid], "state": state, "disposition": state, "reason": None}
            for uid, state in ((IMPORTED, "imported"), (FAILED, "failed"))
        ]
        objects = [one | {"order": [1, 1]} for one in told]
        content = {"schema": "airlock.told/1", "pipeline": "p", "objects": objects}
        self._client.send_message(QueueUrl=self._queue_url, MessageBody=json.dumps(content))


class Exchange:
    """Two requests of a peer: one that Airlock decides about, one that it never does."""

    def __init__(self, peer: Peer, client: Any, queue_url: str, state: Path) -> None:
        self._peer = peer
        self._client = client
        self._queue_url = queue_url
        self._state = state
        self.decided, self._open = str(generate_uid()), str(generate_uid())
        self.acknowledged: set[str] = set()

    def ask(self) -> None:
        """Ask for what was not acknowledged so far, by the same Transaction UID."""
        for transaction, uids in ((self.decided, list(RESULT)), (self._open, [IMPORTED, UNDECIDED])):
            with suppress(*_GONE):
                if transaction not in self.acknowledged and self._peer.ask(uids, transaction)[1] == 0:
                    self.acknowledged.add(transaction)

    def is_done(self) -> bool:
        """Return whether the result has come, the edge knows that, and the queue is empty."""
        with closing(sqlite3.connect(self._state / "commitment.sqlite", timeout=PATIENCE)) as kept:
            states = dict(kept.execute("SELECT transaction_uid, state FROM requests").fetchall())
        return states.get(self.decided) == "reported" and not self._waits() and self.decided in self._peer.results

    def _waits(self) -> int:
        asked = {"QueueUrl": self._queue_url, "AttributeNames": ["All"]}
        found = self._client.get_queue_attributes(**asked)["Attributes"]
        return sum(int(value) for name, value in found.items() if name.startswith("ApproximateNumberOfMessages"))

    def check(self) -> None:
        """Compare the results with what Airlock has said, each time that one came."""
        assert all(one.instances == RESULT for one in self._peer.results[self.decided])
        assert self._open not in self._peer.results, "an instance is answered about which Airlock has said nothing"
