"""A listing by ranges is a plain listing, whatever the keys are called and wherever it is cut, and hardly asks more."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.storage import key_ranges
from airlock.storage.key_ranges import KeyRange, RangedListing
from airlock.storage.listing import ListingError
from airlock.storage.s3 import S3, BucketError, S3Error
from airlock.storage.s3uri import S3Uri
from tests.explore import memory_s3
from tests.explore.clock import Clock
from tests.explore.memory_s3 import MemoryS3
from tests.servers.copying_s3 import refusal
from tests.servers.storing_s3 import storing_s3

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.servers.copying_s3 import Handler

SOURCE = S3Uri("archive", "in/")
ODD = ("a/1", "a/2", "a0", "a/b/c/3", "ä/4", "z", "//5", " /6", "é +%41//x", "\U0001f4a9/7", "\uffee/8", "\x01", "\n")
# Characters at the borders of the order of UTF-8 and of folders, each of which hostile keys have many times.
ALPHABET = "/.-0129az ~+%&\x01\t\n\x7f\x85éß中\uffee\U00010000\U0001f600\U0010fffd"
NAMES = st.lists(st.text(ALPHABET, min_size=1, max_size=6), max_size=60, unique=True)


class CountingClient(MemoryS3):
    """An S3 in memory that notes what it is asked to list, and calls *before* first."""

    def __init__(self) -> None:
        super().__init__(Clock().now)
        self.create_bucket(Bucket="archive")
        self.asked: list[dict[str, Any]] = []
        self.before: Any = lambda _number: None
        self.one_at_a_time = threading.Lock()

    def list_objects_v2(self, **request: Any) -> dict[str, Any]:
        with self.one_at_a_time:
            self.asked.append(request)
            number = len(self.asked) - 1
        self.before(number)
        with self.one_at_a_time:
            return super().list_objects_v2(**request)


@pytest.fixture
def client() -> CountingClient:
    return CountingClient()


@pytest.fixture
def s3(client: CountingClient) -> S3:
    return S3(None, client)  # type: ignore[arg-type]


@pytest.fixture
def pages_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_s3, "PAGE_SIZE", 10)


@contextmanager
def cut_often(page: int) -> Iterator[None]:
    """Cut wherever it is possible, in a listing with pages of so many keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_s3, "PAGE_SIZE", page)
        for name in ("_PAGES_PER_CUT", "_KNOWN_PAGES", "_LEAST_PAGES"):
            patch.setattr(key_ranges, name, 1)
        yield


def store(s3: S3, keys: Iterable[str]) -> None:
    for key in keys:
        s3.put(S3Uri("archive", key), b"x" + key.encode())


def rows_of(frames: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [row for rows in frames for row in rows.iter_rows()]


def keys_of(frames: Iterable[Any]) -> list[str]:
    return [key for rows in frames for key in rows["key"]]


def flat(number: int) -> list[str]:
    return [f"in/{n:012}.dcm" for n in range(number)]


def dated(number: int) -> list[str]:
    """Return keys in folders by day and study, of which each has a few."""
    return [f"in/2026/{n // 900 + 1:02}/{n // 40 % 28 + 1:02}/1.2.276.{n // 7}/{n % 7}.dcm" for n in range(number)]


def hashed(number: int) -> list[str]:
    return [f"in/{n * 2654435761 % 2**32:08x}/{n}" for n in range(number)]


def uneven(number: int) -> list[str]:
    """Return keys of which nearly all are in one folder, behind a few others."""
    return [f"in/{n}/x" for n in range(90)] + [f"in/z/{n:09}" for n in range(number - 90)]


class TestWhatIsListed:
    @settings(max_examples=60)
    @given(NAMES, st.integers(1, 4), st.integers(1, 5), st.sampled_from(["", "in", "in/", "in/a", "in//"]))
    def test_hostile_keys_are_listed_as_by_a_plain_listing(
        self, names: list[str], page: int, at_once: int, prefix: str
    ) -> None:
        s3 = S3(None, CountingClient())  # type: ignore[arg-type]
        store(s3, [*(f"in/{name}" for name in names), "in", "in/", *names[::3]])
        uri = S3Uri("archive", prefix)
        with cut_often(page):
            found = rows_of(RangedListing(s3, uri, at_once))
            plain = [row for each in s3.list_objects(uri) for row in [(each.key, each.etag, each.size)]]
        assert sorted((key, etag, size) for key, _, etag, size, _ in found) == sorted(plain)

    @pytest.mark.parametrize("at_once", [1, 8])
    def test_odd_keys_are_below_the_prefix_and_others_are_not(self, s3: S3, at_once: int) -> None:
        store(s3, [*(f"in/{name}" for name in ODD), "in.txt", "io/1", "in"])
        with cut_often(2):
            assert sorted(keys_of(RangedListing(s3, SOURCE, at_once))) == sorted(f"in/{name}" for name in ODD)

    def test_folder_placeholders_are_none_of_it(self, s3: S3) -> None:
        s3.put(S3Uri("archive", "in/empty/"), b"")
        store(s3, ["in/full/", "in/full/1"])
        assert keys_of(RangedListing(s3, SOURCE, 8)) == ["in/full/", "in/full/1"]
        assert keys_of(RangedListing(s3, S3Uri("archive", "in/empty/"), 8)) == []

    def test_nothing_is_no_frame(self, s3: S3) -> None:
        assert list(RangedListing(s3, SOURCE, 8)) == []

    @pytest.mark.usefixtures("pages_of_ten")
    def test_what_is_written_meanwhile_is_in_it_or_not_but_never_twice(self, s3: S3, client: CountingClient) -> None:
        store(s3, flat(2000)[::2])
        deleted = flat(2000)[::10]

        def write(number: int) -> None:
            new = [flat(2000)[(number * 37 + n * 191) % 1000 * 2 + 1] for n in range(7)]
            with client.one_at_a_time:
                for key in new:
                    client.store("archive", key, b"new")
                s3.delete("archive", deleted[number : number + 1])

        client.before = write
        found = keys_of(RangedListing(s3, SOURCE, 4))
        assert len(set(found)) == len(found)
        assert set(flat(2000)[::2]) - set(deleted) <= set(found) <= set(flat(2000))
        assert set(flat(2000)[1::2]) & set(found)


class TestRequests:
    @pytest.mark.usefixtures("pages_of_ten")
    @pytest.mark.parametrize("keys", [flat, dated, hashed, uneven])
    def test_they_are_at_most_a_tenth_more_than_those_of_a_plain_listing(
        self, s3: S3, client: CountingClient, keys: Any
    ) -> None:
        store(s3, keys(4000))
        found = keys_of(RangedListing(s3, SOURCE, 8))
        assert sorted(found) == sorted(keys(4000))
        assert len(client.asked) <= 400 * 1.1 + 1

    @pytest.mark.usefixtures("pages_of_ten")
    @pytest.mark.parametrize("keys", [flat, dated, hashed, uneven])
    def test_many_are_under_way_at_the_same_time(self, s3: S3, client: CountingClient, keys: Any) -> None:
        """One folder with everything in it is listed in parallel too."""
        store(s3, keys(4000))
        under_way, most, answered = [0], [0], threading.Event()

        def take_as_long_as_s3(_number: int) -> None:
            """Let the others ask meanwhile: a thread whose answers take no time would list alone."""
            with client.one_at_a_time:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            answered.wait(0.004)
            with client.one_at_a_time:
                under_way[0] -= 1

        client.before = take_as_long_as_s3
        assert len(keys_of(RangedListing(s3, SOURCE, 8))) == 4000
        assert most[0] >= 5

    def test_a_short_listing_is_a_plain_one_without_threads(self, s3: S3, client: CountingClient) -> None:
        store(s3, flat(2500))
        listing = iter(RangedListing(s3, SOURCE, 8))
        next(listing)
        assert [each.name for each in threading.enumerate() if "airlock-listing" in each.name] == []
        assert (list(listing), len(client.asked)) == ([], 3)

    @pytest.mark.usefixtures("pages_of_ten")
    def test_one_at_a_time_is_a_plain_listing(self, s3: S3, client: CountingClient) -> None:
        store(s3, flat(1000))
        assert keys_of(RangedListing(s3, SOURCE, 1)) == flat(1000)
        assert len(client.asked) == 100

    @pytest.mark.usefixtures("pages_of_ten")
    def test_a_frame_has_keys_that_follow_each_other(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(key_ranges, "FRAME_ROWS", 3000)
        store(s3, flat(1000))
        frames = [rows["key"].to_list() for rows in RangedListing(s3, SOURCE, 8)]
        assert {len(keys) for keys in frames} - {30}  # and shorter ones, at the end of a range
        assert [key for keys in sorted(frames) for key in keys] == flat(1000)


class TestGoingOn:
    @pytest.mark.parametrize("at_once", [1, 2, 8])
    @pytest.mark.parametrize("frames", [0, 1, 3, 9, 30])
    def test_what_was_left_is_the_rest(
        self, s3: S3, monkeypatch: pytest.MonkeyPatch, at_once: int, frames: int
    ) -> None:
        monkeypatch.setattr(key_ranges, "FRAME_ROWS", 1000)
        store(s3, uneven(300))
        with cut_often(5):
            listing = RangedListing(s3, SOURCE, at_once)
            iterator = iter(listing)
            found = keys_of(islice(iterator, frames))
            left = json.loads(json.dumps(listing.left))
            iterator.close()  # type: ignore[attr-defined]
            rest = keys_of(RangedListing(s3, SOURCE, 3, [KeyRange(*keys) for keys in left]))
        assert sorted(found + rest) == sorted(uneven(300))

    def test_after_the_end_nothing_is_left(self, s3: S3) -> None:
        store(s3, flat(10))
        listing = RangedListing(s3, SOURCE, 8)
        assert listing.left == [KeyRange()]
        list(listing)
        assert listing.left == []
        assert list(RangedListing(s3, SOURCE, 8, [])) == []

    def test_a_range_ends_with_its_last_key(self, s3: S3, client: CountingClient) -> None:
        store(s3, flat(2500))
        ranges = [KeyRange(flat(1200)[-1], flat(2400)[-1])]
        assert keys_of(RangedListing(s3, SOURCE, 8, ranges)) == flat(2400)[1200:]
        assert len(client.asked) == 2

    def test_whoever_stops_early_leaves_no_thread(self, s3: S3) -> None:
        store(s3, flat(400))
        with cut_often(5):
            listing = iter(RangedListing(s3, SOURCE, 4))
            list(islice(listing, 3))
            listing.close()  # type: ignore[attr-defined]
        assert [each.name for each in threading.enumerate() if "airlock-listing" in each.name] == []


class TestRefusals:
    def test_a_bucket_that_cannot_be_listed_is_an_error(self, s3: S3) -> None:
        with pytest.raises(BucketError, match="bucket 'nowhere' cannot be listed"):
            list(RangedListing(s3, S3Uri("nowhere", "in/"), 8))

    @pytest.mark.usefixtures("pages_of_ten")
    def test_an_error_in_one_range_ends_all(
        self, s3: S3, client: CountingClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(key_ranges, "FRAME_ROWS", 1000)  # after each page a range waits for its frame to be taken
        store(s3, flat(4000))

        def fail(number: int) -> None:
            if number == 200:
                raise S3Error("bucket 'archive' cannot be listed", "ListObjectsV2", "SlowDown")

        client.before = fail
        with pytest.raises(S3Error, match="SlowDown"):
            list(RangedListing(s3, SOURCE, 8))
        assert len(client.asked) < 230

    @pytest.mark.usefixtures("pages_of_ten")
    def test_where_keys_have_no_order_nothing_is_cut(self, s3: S3, client: CountingClient) -> None:
        """As in directory buckets, which also ignore from where a listing is to begin."""
        store(s3, flat(1000))
        client.buckets["archive"].order.sort(key=lambda name: name[::-1])
        client.buckets["archive"].keys = _keys_by_token(client)  # type: ignore[method-assign]
        listing = RangedListing(s3, SOURCE, 8)
        assert sorted(keys_of(listing)) == flat(1000)
        assert len(client.asked) == 100
        assert not any("StartAfter" in request for request in client.asked)
        assert listing.left is None

    @pytest.mark.usefixtures("pages_of_ten")
    @pytest.mark.parametrize("ranges", [None, [KeyRange("in/")]])
    def test_keys_that_lose_their_order_later_are_an_error(
        self, s3: S3, client: CountingClient, ranges: list[KeyRange] | None
    ) -> None:
        """Otherwise some would be lost at the cuts."""
        store(s3, flat(1000))
        answer = client.list_objects_v2

        def shuffle(**request: Any) -> dict[str, Any]:
            found = answer(**request)
            if len(client.asked) > 60 or ranges:
                found["Page"].keys.reverse()
            return found

        client.list_objects_v2 = shuffle  # type: ignore[method-assign]
        with pytest.raises(ListingError, match=r"does not list keys in order: set source\.listings to 1"):
            list(RangedListing(s3, SOURCE, 8, ranges))


def _keys_by_token(client: CountingClient) -> Any:
    """Return how a bucket yields keys in the order in which it has them, whatever that is."""
    order = [name.decode() for name in client.buckets["archive"].order]

    def keys(prefix: str, after: str = "") -> Iterator[str]:
        following = order.index(after) + 1 if after else 0
        return (key for key in order[following:] if key.startswith(prefix))

    return keys


class TestOnAServer:
    def test_busy_answers_and_cut_connections_are_asked_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory_s3, "PAGE_SIZE", 10)
        monkeypatch.setattr("botocore.retries.standard.time.sleep", lambda _seconds: None)
        faults = {n: refusal(503, "SlowDown") for n in range(5, 400, 23)} | dict.fromkeys(range(7, 400, 19), _cut)
        faults |= {n: refusal(200, "InternalError") for n in range(9, 400, 41)}
        keys = [*flat(1500), *(f"in/{name}" for name in ODD)]
        with storing_s3("archive") as server:
            server.listing_fault = faults.get
            for key in keys:
                server.store("archive", key, b"x")
            session = boto3.Session("testing", "testing", region_name="us-east-1")
            patient = Config(retries={"mode": "standard", "total_max_attempts": 8})
            s3 = S3(session, session.client("s3", endpoint_url=server.endpoint, config=patient))
            assert sorted(keys_of(RangedListing(s3, SOURCE, 8))) == sorted(keys)
            assert len({query["start-after"] for query in server.listings if "start-after" in query}) > 3
            assert len(server.listings) > len(keys) // 10 + 15


def _cut(handler: Handler) -> None:
    """Answer half of what was announced."""
    handler.begin(200, 1000)
    handler.wfile.write(b"<ListBucketResult>")
    handler.close_connection = True
