"""Which contracts go where, what becomes of those that nobody takes, and how patient a route is."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airlock.destinations import DestinationError
from airlock.destinations.webhook import IDEMPOTENCY_KEY, Webhook, client_for
from airlock.ledger import MessageState
from airlock.ledger.outbox import LEASE
from airlock.pipelines import Delivery, ImagingPipeline
from airlock.records import CONTRACTS, digest, study_key
from airlock.stages.releases import write_payloads
from airlock.stages.route import Routed, RouteError, route
from airlock.stages.route_queue import find_routes
from airlock.stages.route_sending import DOWN_AFTER, pause_seconds
from tests.servers.webhook import webhook_endpoint
from tests.unit.airlock.world import STORE, pipeline
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock.destinations import Message
    from airlock.run import Run
    from tests.unit.airlock.world import World

CT = {"field": "ModalitiesInStudy", "equals": "CT"}
MR = {"field": "ModalitiesInStudy", "equals": "MR"}
AT_ONCE = {"backoff_seconds": 0}


def to(name: str, match: dict[str, Any] | None = None, **delivery: Any) -> dict[str, Any]:
    queue = {"queue_url": f"https://sqs.us-east-1.amazonaws.com/123456789012/{name}"}
    return {"name": name, "sqs": queue, "delivery": AT_ONCE | delivery} | ({"match": match} if match else {})


class Inbox:
    """A destination in memory that refuses what it is told to refuse."""

    def __init__(self, refuse: Callable[[Message], DestinationError | None] = lambda _: None) -> None:
        self.refuse = refuse
        self.tried: list[Message] = []
        self.got: list[Message] = []
        self._lock = Lock()

    def send(self, message: Message) -> None:
        with self._lock:
            self.tried.append(message)
            if error := self.refuse(message):
                raise error
            self.got.append(message)

    @property
    def studies(self) -> list[tuple[str, int]]:
        return [(message.subject_key, message.revision) for message in self.got]


class Slow:
    """A destination that takes its time and then nothing."""

    def __init__(self, until: Callable[[], bool]) -> None:
        self.until = until
        self.tried = 0

    def send(self, message: Message) -> None:
        self.tried += 1
        until("the other route is served", self.until, 60)
        raise down_error("timeout")


def down_error(code: str) -> DestinationError:
    return DestinationError(code, retryable=code != "http_422")


def down(_: Message) -> DestinationError:
    return down_error("http_503")


def study(uid: str, revision: int = 1) -> tuple[str, int]:
    """Return what an inbox has of it."""
    return study_key(uid), revision


def released(
    world: World, line: ImagingPipeline, *studies: tuple[str, str] | tuple[str, str, int], run_id: str = "one"
) -> Run:
    """Release contracts as settling does: study, modality, and a revision."""
    run = world.run(run_id, line)
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    rows = []
    for uid, modality, *more in studies:
        revision = more[0] if more else 1
        content = {"schema": "airlock.study/1", "ModalitiesInStudy": [modality], "revision": revision}
        text = json.dumps(content)
        rows.append((uid, study_key(uid), revision, digest(uid, text), text))
    messages = write_payloads(run, pl.DataFrame(rows, schema=CONTRACTS, orient="row"))
    run.ledger.record_releases(line.name, run.key, STORE, messages)
    return run


class TestRules:
    ROUTES = (to("ct", CT), to("mr", MR), to("both", {"any": [CT, MR]}))

    def test_every_route_that_matches_gets_it(self) -> None:
        line = pipeline(routes=self.ROUTES)
        assert [item.name for item in find_routes(line, contract("MR"))] == ["mr", "both"]
        assert find_routes(line, contract("US")) == []

    def test_or_the_first_only(self) -> None:
        line = pipeline(routes=self.ROUTES, routing="first")
        assert [item.name for item in find_routes(line, contract("MR"))] == ["mr"]

    def test_the_default_route_gets_what_no_other_takes_and_nothing_else(self) -> None:
        for routing in ("all", "first"):
            line = pipeline(routes=[to("rest"), *self.ROUTES], routing=routing, default_route="rest")
            assert [item.name for item in find_routes(line, contract("US"))] == ["rest"]
            assert "rest" not in {item.name for item in find_routes(line, contract("CT"))}

    def test_a_route_without_a_rule_gets_all(self) -> None:
        line = pipeline(routes=[to("ct", CT), to("everything")])
        assert [item.name for item in find_routes(line, contract("US"))] == ["everything"]


def contract(modality: str) -> str:
    return json.dumps({"schema": "airlock.study/1", "ModalitiesInStudy": [modality]})


class TestUnrouted:
    ONLY_CT = pipeline(routes=[to("ct", CT)])
    WITH_MR = pipeline(routes=[to("ct", CT), to("mr", MR)])

    def test_what_no_rule_takes_is_counted_and_kept(self, world: World) -> None:
        ct = Inbox()
        routed = route(released(world, self.ONLY_CT, ("1.1", "CT"), ("1.2", "MR")), {"ct": ct})
        assert routed == Routed({"ct": 1}, {"ct": 0}, {"ct": 0}, unrouted=1)
        assert ct.studies == [study("1.1")]

    def test_a_later_rule_takes_it_in_the_next_run(self, world: World) -> None:
        route(released(world, self.ONLY_CT, ("1.2", "MR"), ("1.3", "US")), {"ct": Inbox()})
        ct, mr = Inbox(), Inbox()
        routed = route(released(world, self.WITH_MR, run_id="two"), {"ct": ct, "mr": mr})
        assert (routed.sent, routed.unrouted) == ({"ct": 0, "mr": 1}, 1)
        assert mr.studies == [study("1.2")]
        again = route(released(world, self.WITH_MR, run_id="three"), {"ct": ct, "mr": mr})
        assert (again.sent, again.unrouted) == ({"ct": 0, "mr": 0}, 1)

    def test_its_later_revision_takes_its_place(self, world: World) -> None:
        route(released(world, self.ONLY_CT, ("1.2", "MR")), {"ct": Inbox()})
        assert route(released(world, self.ONLY_CT, ("1.2", "MR", 2), run_id="two"), {"ct": Inbox()}).unrouted == 1
        mr = Inbox()
        route(released(world, self.WITH_MR, run_id="three"), {"ct": Inbox(), "mr": mr})
        assert mr.studies == [study("1.2", 2)]

    def test_it_is_forgotten_when_its_later_revision_is_routed(self, world: World) -> None:
        route(released(world, self.ONLY_CT, ("1.2", "MR")), {"ct": Inbox()})
        ct = Inbox()
        assert route(released(world, self.ONLY_CT, ("1.2", "CT", 2), run_id="two"), {"ct": ct}).unrouted == 0
        assert ct.studies == [study("1.2", 2)]

    def test_one_whose_contract_the_workspace_has_lost_stays_in_sight(self, world: World) -> None:
        run = released(world, self.ONLY_CT, ("1.2", "MR"))
        route(run, {"ct": Inbox()})
        world.s3.delete("work", [run.workspace.root.join("contracts", study_key("1.2"), "revision-000001.json").key])
        routed = route(released(world, self.WITH_MR, run_id="two"), {"ct": Inbox(), "mr": Inbox()})
        assert routed.unrouted == 1

    def test_the_counts_are_in_the_runs_report(self, world: World) -> None:
        run = released(world, self.ONLY_CT, ("1.1", "CT"), ("1.2", "MR"))
        route(run, {"ct": Inbox()})
        report = json.loads(world.s3.get(run.workspace.root.join("routing.json")))
        assert report == {
            "sent": {"ct": 1},
            "waiting": {"ct": 0},
            "failed": {"ct": 0},
            "unrouted": 1,
            "without_route": {},
            "overtaken": 0,
            "gone": 0,
        }


def test_what_waits_for_a_destination_that_is_no_routes_any_more_stays_in_sight(world: World) -> None:
    old, new = pipeline(routes=[to("old")]), pipeline(routes=[to("new")])
    with pytest.raises(RouteError):
        route(released(world, old, ("1.1", "CT")), {"old": Inbox(down)})
    inbox = Inbox()
    routed = route(released(world, new, ("1.2", "CT"), run_id="two"), {"new": inbox})
    assert routed.without_route == {old.routes[0].address(STORE): 1}
    assert inbox.studies == [study("1.2")]
    back = Inbox()
    assert route(released(world, old, run_id="three"), {"old": back}).without_route == {}
    assert back.studies == [study("1.1")]


class TestPatience:
    BOTH = pipeline(routes=[to("down", in_flight=4), to("up")])

    def test_a_route_waits_for_its_backoff_and_says_so(self, world: World) -> None:
        line = pipeline(routes=[to("down", backoff_seconds=3_600, max_backoff_seconds=3_600)])
        run, inbox = released(world, line, ("1.1", "CT")), Inbox(down)
        with pytest.raises(RouteError, match=r"down: 1 in the outbox \(http_503\)"):
            route(run, {"down": inbox})
        with pytest.raises(RouteError, match=r"not delivered\. down: 1 in the outbox;"):
            route(run, {"down": inbox})
        assert len(inbox.tried) == 1
        other = route(released(world, line, run_id="two"), {"down": inbox})
        assert (len(inbox.tried), other.waiting) == (1, {"down": 1}), "another run is not failed for it"
        run.ledger.requeue(line.name)
        inbox.refuse = lambda _: None
        assert route(run, {"down": inbox}).sent == {"down": 1}

    def test_what_the_destination_asks_for_is_more_than_the_backoff(self, world: World) -> None:
        run = released(world, self.BOTH, ("1.1", "CT"))
        busy = Inbox(lambda _: DestinationError("http_429", retryable=True, retry_after=3_600))
        for _ in range(2):
            with pytest.raises(RouteError):
                route(run, {"down": busy, "up": Inbox()})
        assert len(busy.tried) == 1

    def test_one_that_is_down_takes_few_tries_and_no_other_waits_for_it(self, world: World) -> None:
        """The slow one answers only when the other has everything."""
        studies = [(f"1.{number}", "CT") for number in range(80)]
        run, up = released(world, self.BOTH, *studies), Inbox()
        slow = Slow(until=lambda: len(up.got) == len(studies))
        with pytest.raises(RouteError, match=r"down: 80 in the outbox \(timeout\)"):
            route(run, {"down": slow, "up": up})
        assert DOWN_AFTER <= slow.tried <= DOWN_AFTER + 4
        ready = Inbox()
        assert route(run, {"down": ready, "up": up}).sent == {"down": 80, "up": 0}

    def test_after_so_many_attempts_it_is_failed_and_can_be_requeued(self, world: World) -> None:
        line = pipeline(routes=[to("down", max_attempts=2)])
        run, inbox = released(world, line, ("1.1", "CT")), Inbox(down)
        with pytest.raises(RouteError):
            route(run, {"down": inbox})
        with pytest.raises(RouteError, match=r"down: gave up 1 \(http_503\); fix the cause and requeue"):
            route(run, {"down": inbox})
        assert route(run, {"down": inbox}).failed == {"down": 1}
        assert len(inbox.tried) == 2
        assert run.ledger.requeue(line.name) == 1
        inbox.refuse = lambda _: None
        assert route(run, {"down": inbox}) == Routed({"down": 1}, {"down": 0}, {"down": 0}, 0)

    def test_after_so_many_hours_too(self, world: World) -> None:
        line = pipeline(routes=[to("down", give_up_hours=1e-9)])
        with pytest.raises(RouteError, match="gave up"):
            route(released(world, line, ("1.1", "CT")), {"down": Inbox(down)})

    def test_what_refuses_one_message_for_good_takes_the_others(self, world: World) -> None:
        bad = study_key("1.1")
        picky = Inbox(lambda one: DestinationError("http_422", retryable=False) if one.subject_key == bad else None)
        line = pipeline(routes=[to("picky")])
        with pytest.raises(RouteError, match=r"picky: gave up 1 \(http_422\)"):
            route(released(world, line, ("1.1", "CT"), ("1.2", "CT")), {"picky": picky})
        assert picky.studies == [study("1.2")]

    def test_one_that_takes_longer_than_a_lease_is_sent_by_this_run_alone(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airlock.stages.route_sending.RENEWED_EVERY", 0.01)
        line, renewed = pipeline(routes=[to("slow")]), Event()
        run = released(world, line, ("1.1", "CT"), ("1.2", "CT"))
        renew = run.ledger.renew_leases
        monkeypatch.setattr(run.ledger, "renew_leases", lambda *given: (renew(*given), renewed.set()))

        def keep_it_until_the_lease_would_have_ended(_: Message) -> None:
            ended = datetime.now(UTC) + LEASE
            for _ in range(2):  # the first may have begun before
                renewed.clear()
                assert renewed.wait(30)
            with monkeypatch.context() as later:
                later.setattr("airlock.ledger.clock.database_time", lambda _: ended)
                assert run.ledger.lease_due(line.name, line.routes[0].address(STORE), 10, "two") == []

        assert route(run, {"slow": Inbox(keep_it_until_the_lease_would_have_ended)}).sent == {"slow": 2}

    def test_one_that_refuses_all_for_good_is_down_too(self, world: World) -> None:
        """An endpoint behind a gateway that answers 400 to everything shall not cost the whole backlog."""
        refusing = Inbox(lambda _: down_error("http_422"))
        run = released(world, pipeline(routes=[to("down")]), *((f"1.{number}", "CT") for number in range(80)))
        with pytest.raises(RouteError, match="gave up"):
            route(run, {"down": refusing})
        assert DOWN_AFTER <= len(refusing.tried) <= DOWN_AFTER + 16
        refusing.refuse = lambda _: None
        assert route(run, {"down": refusing}).sent == {"down": 80 - len(refusing.tried) + len(refusing.got)}

    def test_an_error_that_nobody_foresaw_costs_its_own_message(self, world: World) -> None:
        def stumble(message: Message) -> None:
            if message.subject_key == study_key("1.1"):
                raise KeyError("DOE^JANE")

        run, inbox = released(world, pipeline(routes=[to("odd")]), ("1.1", "CT"), ("1.2", "CT")), Inbox(stumble)
        with pytest.raises(RouteError, match=r"odd: 1 in the outbox \(unexpected_KeyError\)") as info:
            route(run, {"odd": inbox})
        assert "DOE" not in str(info.value)
        assert inbox.studies == [study("1.2")]

    def test_a_later_revision_never_overtakes_its_earlier_one(self, world: World) -> None:
        inbox = Inbox(lambda one: down(one) if one.revision == 1 else None)
        line = pipeline(routes=[to("ordered")])
        for number, name in ((1, "one"), (2, "two"), (3, "three")):
            with pytest.raises(RouteError):
                route(released(world, line, ("1.1", "CT", number), run_id=name), {"ordered": inbox})
        assert inbox.got == []
        inbox.refuse = lambda _: None
        route(released(world, line, run_id="four"), {"ordered": inbox})
        assert inbox.studies == [study("1.1", number) for number in (1, 2, 3)]

    def test_a_pause_doubles_up_to_the_longest_and_differs(self) -> None:
        delivery = Delivery(backoff_seconds=10, max_backoff_seconds=60)
        for attempts, longest in ((0, 10), (1, 20), (2, 40), (3, 60), (10_000, 60)):
            found = {pause_seconds(delivery, attempts) for _ in range(50)}
            assert longest / 2 <= min(found) < max(found) <= longest


def test_an_endpoint_that_dies_and_comes_back_gets_each_contract_under_its_own_key(world: World) -> None:
    hook = {"name": "hook", "webhook": {"conn_id": "hospital"}, "delivery": AT_ONCE}
    run = released(world, pipeline(routes=[hook]), *((f"1.{number}", "CT") for number in range(5)))
    with webhook_endpoint() as endpoint, client_for(5) as client:
        destination = {"hook": Webhook(client, endpoint.url, "secret")}
        endpoint.cut = True  # it has taken them, and dies before it says so
        with pytest.raises(RouteError, match=r"hook: 5 in the outbox \(RemoteProtocolError\)"):
            route(run, destination)
        endpoint.die()
        with pytest.raises(RouteError, match=r"hook: 5 in the outbox \(ConnectError\)"):
            route(run, destination)
        endpoint.cut = False
        endpoint.start()
        assert route(run, destination).sent == {"hook": 5}
        keys = Counter(headers[IDEMPOTENCY_KEY] for headers, _ in endpoint.requests)
    assert sorted(keys.values()) == [2] * 5


RULES = {"ct": CT, "mr": MR, "both": {"any": [CT, MR]}}
NIGHTS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["CT", "MR", "US"]), max_size=4),
        st.sets(st.sampled_from(sorted(RULES)), min_size=1),  # the routes that the pipeline has that night
        st.lists(st.sampled_from(["", "http_503", "http_422"]), max_size=12),  # what destinations say, in turn
    ),
    min_size=1,
    max_size=4,
)
SERIAL = count()


class Books:
    """What must be where, in the plainest words."""

    def __init__(self) -> None:
        self.queued: dict[str, set[tuple[str, int]]] = {name: set() for name in RULES}
        self.unrouted: dict[str, tuple[str, int]] = {}

    def add(self, subject: str, modality: str, revision: int, present: set[str]) -> None:
        takes = {"ct": "CT", "mr": "MR"}
        found = {name for name in present if takes.get(name, modality) == modality != "US"}
        for name in found:
            self.queued[name].add((subject, revision))
        self.unrouted.pop(subject, None)
        if not found:
            self.unrouted[subject] = modality, revision

    def ask_again(self, present: set[str]) -> None:
        for subject, (modality, revision) in [*self.unrouted.items()]:
            self.add(subject, modality, revision, present)


def check_books(world: World, nights: list[Any]) -> None:
    """Route what each night releases, and compare what became of it with the books."""
    line, books, revisions = f"nightly-{next(SERIAL)}", Books(), Counter[str]()
    boxes = {name: Inbox() for name in RULES}
    for number, (studies, present, answers) in enumerate(nights):
        said = iter(answers)
        for box in boxes.values():
            box.refuse = lambda _, said=said: down_error(code) if (code := next(said, "")) else None
        revisions.update(studies.keys())
        rows = [(f"{line}.{uid}", modality, revisions[uid]) for uid, modality in studies.items()]
        for uid, modality, revision in rows:
            books.add(study_key(uid), modality, revision, present)
        books.ask_again(present)
        tonight = pipeline(name=line, routes=[to(name, RULES[name], max_attempts=2) for name in sorted(present)])
        with suppress(RouteError):
            route(released(world, tonight, *rows, run_id=f"night-{number}"), boxes)
    for item in pipeline(routes=[to(name) for name in RULES]).routes:
        states = world.ledger.messages_by_state(line).get(item.address(STORE), {})
        got = boxes[item.name].studies
        assert sum(states.values()) == len(books.queued[item.name])
        assert states.get(MessageState.SENT, 0) == len(got) == len(set(got))
        assert set(got) <= books.queued[item.name]
    assert world.ledger.count_unrouted(line) == len(books.unrouted)


SHARED = [HealthCheck.function_scoped_fixture]  # each example has a pipeline of its own


@settings(max_examples=6, suppress_health_check=SHARED)
@given(nights=NIGHTS)
def test_every_released_contract_is_sent_pending_failed_or_unrouted(world: World, nights: list[Any]) -> None:
    """Whatever is released, refused and reconfigured: nothing vanishes, and nothing is taken twice."""
    check_books(world, nights)


@pytest.mark.proof
@settings(max_examples=200, suppress_health_check=SHARED)
@given(nights=NIGHTS)
def test_and_so_it_is_in_two_hundred_histories(world: World, nights: list[Any]) -> None:
    check_books(world, nights)
