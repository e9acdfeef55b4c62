"""Whatever the order of objects, words, requests, restarts and waiting: one true result per request, and never early.

The expectation is a model in memory, with which the edge's own answer is compared when it gives one.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airlock_edge.book import Book, Received, State
from airlock_edge.commitment import store as stores
from airlock_edge.commitment.information import Reference, Request
from airlock_edge.commitment.service import Commitments
from airlock_edge.commitment.store import Told
from airlock_edge.metrics import Metrics
from airlock_edge.settings import Edge
from tests.unit.airlock_edge.commitment.conftest import Machine

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
PEERS = {"MODALITY": "durable", "PACS": "imported", "OLDPACS": "released"}
HOUR, UNKNOWN_SECONDS = 3600.0, 600.0
UIDS = ("1.1", "1.2")
IN_MEMORY = Path("/dev/shm")  # each change is flushed, which takes most of the time on a disk
FAILURES = {"failed": 0x0110, "undecided": 0x0110, "unknown": 0x0112, "conflict": 0x0119, "committed": None}


def edge_settings(folder: Path) -> Edge:
    return Edge.model_validate(
        {
            "schema": "airlock.edge/1",
            "site": "north",
            "state": str(folder),
            "peers": [
                {"ae_title": name, "addresses": ["127.0.0.1"], "commitment_after": after}
                for name, after in PEERS.items()
            ],
            "destination": {"uri": "s3://archive/in/", "region_name": "us-east-1"},
            "commitment": {
                "wait_hours": 1,
                "unknown_minutes": UNKNOWN_SECONDS / 60,
                "queue_url": "http://127.0.0.1:1/123456789012/edge",
            },
        }
    )


@dataclass
class Asked:
    """A request of the model."""

    ae_title: str
    uids: list[str]
    at: float
    answer: list[int | None] | None = None


@dataclass
class World:
    """The model: what was received, is durable and was told, and the true time."""

    newest: dict[tuple[str, str], str] = field(default_factory=dict)  # key by UID and peer
    other_class: set[str] = field(default_factory=set)
    durable: set[str] = field(default_factory=set)
    told: dict[str, tuple[tuple[int, int], str]] = field(default_factory=dict)
    now: float = 0.0

    def verdict(self, ae_title: str, uid: str) -> str:
        """Return what is true of an instance."""
        keys = {peer: key for (one, peer), key in self.newest.items() if one == uid}
        if not keys:
            return "conflict" if uid in self.other_class else "unknown"
        chosen = [keys[ae_title]] if ae_title in keys else list(keys.values())
        found = {self._of_key(PEERS[ae_title], key) for key in chosen}
        return next(one for one in ("failed", "undecided", "committed") if one in found)

    def _of_key(self, after: str, key: str) -> str:
        if after == "durable":
            return "committed" if key in self.durable else "undecided"
        told = self.told.get(key, ((0, 0), ""))[1]
        if told == "failed":
            return "failed"
        return "committed" if told == "released" or (told == "imported" and after == "imported") else "undecided"


class Orders(RuleBasedStateMachine):
    """Lets objects, words, requests, restarts and time come in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="airlock-orders-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None))
        self.machine, self.world = Machine(), World()
        self.asked: dict[str, Asked] = {}
        self.waiting: list[Told] = []  # words that the queue still has
        self._start()

    def _start(self) -> None:
        self.book = Book(self.folder)
        self.service = Commitments(edge_settings(self.folder), Metrics(), self.machine.clock())
        self.service._reports.send_due = lambda: None  # type: ignore[method-assign]  # no network here

    def _stop(self) -> None:
        self.service.store.close()
        self.service._reports.close()
        self.book.close()

    def teardown(self) -> None:
        self._stop()
        shutil.rmtree(self.folder)

    @rule(uid=st.sampled_from(UIDS), content=st.sampled_from("ab"), peer=st.sampled_from(sorted(PEERS)))
    def receive(self, uid: str, content: str, peer: str) -> None:
        key = f"in/{uid}/{content}"
        state = State.DURABLE if key in self.world.durable else State.SPOOLED
        self.book.add([_row(key, uid, CT, peer, state)])
        self.world.newest[uid, peer] = key

    @rule(uid=st.sampled_from(UIDS))
    def receive_under_another_class(self, uid: str) -> None:
        self.book.add([_row(f"in/{uid}/mr", uid, MR, "PACS", State.DURABLE)])
        self.world.other_class.add(uid)

    @precondition(lambda self: self.world.newest)
    @rule(data=st.data())
    def upload(self, data: Any) -> None:
        (uid, peer), key = data.draw(st.sampled_from(sorted(self.world.newest.items())))
        self.book.add([_row(key, uid, CT, peer, State.DURABLE)], arrived=False)
        self.world.durable.add(key)

    @rule(
        uid=st.sampled_from(UIDS),
        content=st.sampled_from("ab"),
        state=st.sampled_from(["imported", "released", "failed"]),
    )
    def decide_in_airlock(self, uid: str, content: str, state: str) -> None:
        key = f"in/{uid}/{content}"
        number = 1 + sum(one.s3_key == key for one in self.waiting) + self.world.told.get(key, ((0, 0), ""))[0][1]
        self.waiting.append(Told(key, state, state, None, (1, number)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), again=st.booleans())
    def tell(self, data: Any, *, again: bool) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        if not again:  # else the queue has it still, as after a crash before it was deleted
            self.waiting.remove(one)
        self.service.store.note_told([one])
        if one.place > self.world.told.get(one.s3_key, ((0, 0), ""))[0]:
            self.world.told[one.s3_key] = one.place[:2], one.state  # type: ignore[assignment]

    @rule(
        peer=st.sampled_from(sorted(PEERS)), uids=st.lists(st.sampled_from(UIDS), min_size=1, max_size=2, unique=True)
    )
    def ask(self, peer: str, uids: list[str]) -> None:
        transaction = f"2.{len(self.asked) + 1}"
        references = tuple(Reference(CT, uid) for uid in uids)
        assert self.service.store.add(peer, Request(transaction, references)) == "new"
        self.asked[transaction] = Asked(peer, uids, self.world.now)

    @rule(seconds=st.sampled_from([1.0, UNKNOWN_SECONDS, HOUR / 2, HOUR]))
    def wait(self, seconds: float) -> None:
        self.machine.seconds += seconds
        self.world.now += seconds

    @rule(is_boot=st.booleans())
    def restart(self, *, is_boot: bool) -> None:
        self.service.store.keep_clock()
        self._stop()
        if is_boot:  # the time in which the machine is off does not count
            self.machine.restart()
        self._start()

    @rule()
    def look(self) -> None:
        self.service.look()
        decided = {one.transaction_uid: one for one in self.service.store.list_in(stores.State.DECIDED)}
        for transaction, asked in self.asked.items():
            if asked.answer is None:
                self._compare(asked, decided.get(transaction))

    def _compare(self, asked: Asked, kept: stores.Kept | None) -> None:
        verdicts = [self.world.verdict(asked.ae_title, uid) for uid in asked.uids]
        waited = self.world.now - asked.at
        unknown = {"unknown", "conflict"} & set(verdicts)
        is_over = "undecided" not in verdicts and (not unknown or waited >= UNKNOWN_SECONDS)
        assert (kept is not None) == (is_over or waited >= HOUR)
        if kept is not None:
            asked.answer = [FAILURES[one] for one in verdicts]

    @invariant()
    def a_result_has_the_complete_set_and_never_changes(self) -> None:
        for one in self.service.store.list_in(stores.State.DECIDED):
            answer = self.asked[one.transaction_uid].answer
            references = self.service.store.references(one.number)
            assert [each.sop_instance_uid for each in references] == self.asked[one.transaction_uid].uids
            if answer is not None:
                assert [each.failure for each in references] == answer


def _row(key: str, uid: str, sop_class: str, peer: str, state: State) -> Received:
    return Received(key, uid, sop_class, "1.2.840.10008.1.2", peer, "aa", key, 5, state, "", "")


TestOrders = Orders.TestCase
TestOrders.settings = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
