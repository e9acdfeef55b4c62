"""The parse stage against an S3 server: one row per arrival, whatever lies in the bucket."""

from __future__ import annotations

import gzip
import logging
import os
import signal
import threading
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import boto3
import polars as pl
import pytest

from airlock.dicom.fetch import S3UnavailableError
from airlock.imaging.parse import FRAME_ROWS, PART_ROWS, parse, parse_shard
from airlock.imaging.reading import Reading, find_reading
from airlock.pipelines import ParseSettings
from airlock.records import ARRIVALS, ATTRIBUTES, HEADERS, arrival_id
from airlock.run import Run
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from tests.servers.faulty_s3 import FaultyS3, cut, faulty_s3, refusal
from tests.servers.moto import moto_server
from tests.unit.airlock.dicom.objects import CT_VALUES, ct, element, item, sequence
from tests.unit.airlock.world import pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger

BUCKET = "archive"
SETTINGS = ParseSettings()
ODD_KEYS = [
    "plain/1.dcm",
    "with space/a+b.dcm",
    "plus+plus/é ü 日本.dcm",
    "per%20cent/100%.dcm",
    "hash#/question?/{brace}.dcm",
    "back\\slash.dcm",
    "double//slash.dcm",
    "/leading.dcm",
    "dot/./segment.dcm",
    "dot/../segment.dcm",
]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with moto_server() as endpoint:
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        client = session.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket=BUCKET)
        yield S3(session, client)


@pytest.fixture
def faulty() -> Iterator[FaultyS3]:
    with faulty_s3() as server:
        yield server


def put(s3: S3, key: str, body: bytes, **extra: str) -> dict[str, Any]:
    """Store an object and return its arrival."""
    reply = s3.client.put_object(Bucket=BUCKET, Key=key, Body=body, **extra)
    etag, version = reply["ETag"].strip('"'), reply.get("VersionId")
    return {
        "arrival_id": arrival_id(BUCKET, key, version, etag, len(body)),
        "bucket": BUCKET,
        "key": key,
        "version_id": version,
        "etag": etag,
        "size": len(body),
        "last_modified": datetime(2026, 3, 1, tzinfo=UTC),
    }


def absent(key: str) -> dict[str, Any]:
    """Return an arrival whose object is not there."""
    place = {"arrival_id": arrival_id(BUCKET, key, None, "", 1), "bucket": BUCKET, "key": key, "version_id": None}
    return place | {"etag": "", "size": 1, "last_modified": datetime(2026, 3, 1, tzinfo=UTC)}


def served(server: FaultyS3, key: str, body: bytes) -> dict[str, Any]:
    """Store an object at the server that goes wrong, and return its arrival."""
    return absent(key) | {"etag": server.put(key, body), "size": len(body)}


def at(server: FaultyS3) -> S3:
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    return S3(session, session.client("s3", endpoint_url=server.endpoint))


def read(s3: S3, arrivals: list[dict[str, Any]], settings: ParseSettings = SETTINGS) -> pl.DataFrame:
    return parse(pl.DataFrame(arrivals, schema=ARRIVALS), s3, settings)


def one(s3: S3, arrival: dict[str, Any]) -> dict[str, Any]:
    return read(s3, [arrival]).row(0, named=True)


@contextmanager
def gets_counted() -> Iterator[list[str]]:
    """Collect what the server's own access log has of GETs: one that is not there was not made."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "GET /" in (line := record.getMessage()):
                lines.append(line)

    log, handler = logging.getLogger("werkzeug"), Collect()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


class TestRows:
    def test_one_per_arrival_in_their_order(self, s3: S3) -> None:
        bodies = [ct({0x00200013: ("IS", str(number).encode())}) for number in range(150)]
        arrivals = [put(s3, f"order/{number}", body) for number, body in enumerate(bodies)]
        headers = read(s3, arrivals, ParseSettings(in_flight=7))
        assert headers.schema == HEADERS
        assert headers["arrival_id"].to_list() == [arrival["arrival_id"] for arrival in arrivals]
        assert headers["InstanceNumber"].to_list() == [str(number) for number in range(150)]

    def test_values_are_text_and_absent_ones_null(self, s3: S3) -> None:
        row = one(s3, put(s3, "values.dcm", ct()))
        assert {name: row[name] for name in ATTRIBUTES if row[name] is not None} == CT_VALUES
        assert row["StudyID"] == ""
        assert row["StudyDescription"] is None
        assert (row["reason"], row["detail"], row["warning"]) == (None, None, None)

    def test_no_arrivals_give_no_rows(self, s3: S3) -> None:
        headers = read(s3, [])
        assert headers.height == 0
        assert headers.schema == HEADERS

    def test_text_that_does_not_fit_its_character_set_is_a_warning(self, s3: S3) -> None:
        row = one(s3, put(s3, "charset.dcm", ct({0x00080005: ("CS", b"ISO_IR 192")})))
        assert (row["reason"], row["warning"]) == (None, "undecodable_text")
        assert row["detail"] == "InstitutionName, PatientName"
        assert row["PatientName"] == "M\ufffdller^J\ufffdrg"

    @pytest.mark.parametrize(
        ("sop_class", "warning"),
        [(b"1.2.840.10008.5.1.4.1.1.2\0", "no_pixel_data"), (b"1.2.840.10008.5.1.4.1.1.88.22\0", None)],
    )
    def test_an_image_that_ends_before_its_pixels_is_a_warning(
        self, s3: S3, sop_class: bytes, warning: str | None
    ) -> None:
        body = ct({0x00080016: ("UI", sop_class), 0x7FE00010: None})
        row = one(s3, put(s3, "cut.dcm", body))
        assert (row["reason"], row["warning"], row["requests"]) == (None, warning, 1)

    def test_progress_is_told(self, s3: S3) -> None:
        arrivals = [absent(f"progress/{number}") | {"size": 0} for number in range(2500)]
        told: list[int] = []
        parse(pl.DataFrame(arrivals, schema=ARRIVALS), s3, SETTINGS, told.append)
        assert told == [1000, 2000, 2500]


class TestKeys:
    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_every_key_that_s3_takes_is_read(self, s3: S3, key: str) -> None:
        body = ct({0x00100020: ("LO", b"of this key")})
        row = one(s3, put(s3, key, body))
        assert row["PatientID"] == "of this key"
        assert (row["requests"], row["bytes_read"]) == (1, len(body))

    def test_they_are_not_mixed_up(self, s3: S3) -> None:
        arrivals = [put(s3, key, ct({0x00200013: ("IS", str(n).encode())})) for n, key in enumerate(ODD_KEYS)]
        assert read(s3, arrivals)["InstanceNumber"].to_list() == [str(n) for n in range(len(ODD_KEYS))]


class TestRequests:
    def test_a_small_header_costs_one_request_and_16_kib(self, s3: S3) -> None:
        arrival = put(s3, "one.dcm", ct({0x7FE00010: ("OW", bytes(500_000))}))
        with gets_counted() as lines:
            row = one(s3, arrival)
        assert len(lines) == row["requests"] == 1
        assert row["bytes_read"] == 16 * 1024

    @pytest.mark.parametrize("key", ["two.dcm", "two//slashes.dcm"])
    def test_a_big_value_in_front_costs_one_more(self, s3: S3, key: str) -> None:
        arrival = put(s3, key, ct({0x00091010: ("OB", bytes(900_000)), 0x7FE00010: ("OW", bytes(500_000))}))
        with gets_counted() as lines:
            row = one(s3, arrival)
        assert len(lines) == row["requests"] == 2
        assert row["bytes_read"] == 32 * 1024
        assert row["RequestedProcedureID"] == "RP-TOP"

    def test_an_empty_object_costs_none(self, s3: S3) -> None:
        arrival = put(s3, "nothing.dcm", b"")
        with gets_counted() as lines:
            row = one(s3, arrival)
        assert (row["reason"], row["requests"], row["bytes_read"], lines) == ("empty_object", 0, 0, [])

    def test_the_limit_on_a_header_is_a_setting(self, s3: S3) -> None:
        private = b"".join(element(0x00110000 + n, "LO", b"x" * 250) for n in range(0x1000, 0x2800))
        arrival = put(s3, "long.dcm", ct({0x00111000: private}))
        assert read(s3, [arrival], ParseSettings(max_header_mib=1))["reason"].item() == "header_too_long"
        assert read(s3, [arrival], ParseSettings(max_header_mib=2))["reason"].item() is None


class TestFirstRange:
    LONG = ct({0x00091010: ("OB", bytes(100_000)), 0x7FE00010: ("OW", bytes(500_000))})
    END = LONG.index(b"\xe0\x7f\x10\0OW")  # of its header

    def test_it_is_the_one_of_its_prefix(self, s3: S3) -> None:
        settings = ParseSettings.model_validate({"first_range_kib": 8, "first_ranges": [{"prefix": "a/", "kib": 128}]})
        headers = read(s3, [put(s3, "a/mr/1.dcm", self.LONG), put(s3, "b/1.dcm", self.LONG)], settings)
        assert headers["requests"].to_list() == [1, 2]
        assert headers["bytes_read"].to_list() == [128 * 1024, 2 * 8 * 1024]

    def test_the_headers_of_a_folder_teach_it_and_no_more_is_read_behind_them(self, s3: S3) -> None:
        arrivals = [put(s3, f"learnt/{folder}/{n}.dcm", self.LONG) for folder in "ab" for n in range(10)]
        headers = read(s3, arrivals, ParseSettings(in_flight=1))
        assert headers["requests"].to_list() == [2] * 3 + [1] * 7 + [2] * 2 + [1] * 8
        learnt = headers.filter(pl.col("requests") == 1)["bytes_read"]
        assert self.END < learnt.min() <= learnt.max() < self.END + 20 * 1024  # a second range, rounded
        assert headers["RequestedProcedureID"].unique().to_list() == ["RP-TOP"]

    def test_a_learnt_range_changes_nothing_else(self, s3: S3) -> None:
        late = element(0x00431001, "OB", bytes(20_000)) + element(0x00200010, "SH", b"late")  # not in a second range
        odd = ct({0x00091010: ("OB", bytes(100_000)), 0x00431001: late, 0x7FE00010: None})
        bodies = [self.LONG, self.LONG, odd, self.LONG[:-10], self.LONG[:120_000], self.LONG[:100_000], odd]
        alone = [put(s3, f"alone/{n}/1.dcm", body) for n, body in enumerate(bodies)]
        together = [put(s3, f"together/{n}.dcm", body) for n, body in enumerate([self.LONG] * 4 + bodies)]
        without, learnt = read(s3, alone), read(s3, together, ParseSettings(in_flight=1))[4:]
        cost = ["arrival_id", "requests", "bytes_read"]
        assert learnt.drop(cost).equals(without.drop(cost))
        assert learnt["requests"].sum() < without["requests"].sum()


class TestInFlight:
    """A server that answers only when as many requests are there as the settings allow."""

    def test_as_many_as_allowed_all_the_time_and_never_more(self, faulty: FaultyS3) -> None:
        together, now = threading.Barrier(4), Now()
        bodies = [ct({0x00091010: ("OB", bytes(50_000 if n < 8 else 50))}) for n in range(24)]
        arrivals = [served(faulty, f"{n}/1.dcm", body) for n, body in enumerate(bodies)]
        faulty.before = lambda _number: now.meet(together)
        headers = read(at(faulty), arrivals, ParseSettings(in_flight=4))
        assert headers["requests"].to_list() == [2] * 8 + [1] * 16
        assert headers["reason"].null_count() == 24
        assert now.most == 4


class Now:
    """Counts the requests that are being answered."""

    def __init__(self) -> None:
        self.most = 0
        self._number = 0
        self._lock = threading.Lock()

    def meet(self, together: threading.Barrier) -> None:
        with self._lock:
            self._number += 1
            self.most = max(self.most, self._number)
        together.wait(timeout=20)
        with self._lock:
            self._number -= 1


class TestReasons:
    @pytest.mark.parametrize(
        ("key", "body", "reason"),
        [
            ("r/empty.dcm", b"", "empty_object"),
            ("r/_SUCCESS", b"", "sidecar"),
            ("r/.DS_Store", b"\0\0\0\1Bud1", "sidecar"),
            ("r/PHOTO.JPG", b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(900), "sidecar"),
            ("r/photo", b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(900), "not_dicom"),
            ("r/x.jpg", ct(), None),
            ("r/DICOMDIR.txt", ct()[132:], "no_preamble"),
            ("r/gzipped.dcm", gzip.compress(ct()), "gzip_encoded"),
            ("r/cut.dcm", ct()[:-10], "truncated"),
            ("r/noise.dcm", b"\0" * 128 + b"DICM" + b"\x02\0\x10\0\xff\xff" * 90, "truncated"),
        ],
    )
    def test_what_the_object_is(self, s3: S3, key: str, body: bytes, reason: str | None) -> None:
        assert one(s3, put(s3, key, body))["reason"] == reason

    def test_an_object_that_makes_the_parser_recurse_too_far_costs_only_itself(self, s3: S3) -> None:
        nested = b""
        for _ in range(600):
            nested = sequence(0x00400275, [item(nested)])
        hostile = ct({0x00400275: sequence(0x00400275, [item(nested)], undefined=False)})
        headers = read(s3, [put(s3, "hostile.dcm", hostile), put(s3, "good.dcm", ct())])
        assert headers.select("reason", "detail").rows() == [("unreadable", "RecursionError"), (None, None)]

    def test_a_cut_object_still_says_which_study_misses_it(self, s3: S3) -> None:
        row = one(s3, put(s3, "cut-pixels.dcm", ct()[:-10]))
        assert (row["reason"], row["StudyInstanceUID"]) == ("truncated", "1.2.3")

    @pytest.mark.parametrize("key", ["encoded.dcm", "encoded//twice.dcm"])
    def test_a_gzip_content_encoding_counts_whatever_the_bytes_are(self, s3: S3, key: str) -> None:
        row = one(s3, put(s3, key, ct(), ContentEncoding="gzip"))
        assert (row["reason"], row["detail"]) == ("gzip_encoded", "Content-Encoding gzip")

    @pytest.mark.parametrize("key", ["changed.dcm", "changed//twice.dcm"])
    def test_an_object_that_was_replaced_or_deleted_since_it_was_listed(self, s3: S3, key: str) -> None:
        listed = put(s3, key, ct())
        put(s3, key, ct({0x00100020: ("LO", b"OTHER ")}))
        assert one(s3, listed)["reason"] == "object_changed"
        s3.client.delete_object(Bucket=BUCKET, Key=key)
        assert one(s3, listed)["reason"] == "object_gone"

    def test_without_an_etag_another_size_shows_the_change(self, s3: S3) -> None:
        listed = put(s3, "no-etag.dcm", ct()) | {"etag": ""}
        assert one(s3, listed)["reason"] is None
        put(s3, "no-etag.dcm", ct({0x00100020: ("LO", b"LONGER THAN BEFORE")}))
        assert one(s3, listed)["reason"] == "object_changed"

    @pytest.mark.parametrize("key", ["versions.dcm", "versions//twice.dcm"])
    def test_a_version_is_read_though_it_is_no_longer_the_latest(self, s3: S3, key: str) -> None:
        s3.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        try:
            listed = put(s3, key, ct({0x00100020: ("LO", b"FIRST")}))
            put(s3, key, ct({0x00100020: ("LO", b"SECOND")}))
        finally:
            s3.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})
        assert listed["version_id"]
        assert one(s3, listed)["PatientID"] == "FIRST"


class TestOneObject:
    """What the server does to one object stays with it."""

    def test_one_under_a_key_of_the_customer_s_own(self, faulty: FaultyS3) -> None:
        faulty.faults.append(refusal(400, "InvalidRequest"))
        arrivals = [served(faulty, f"{n}.dcm", ct()) for n in range(3)]
        headers = read(at(faulty), arrivals, ParseSettings(in_flight=1))
        assert headers["reason"].to_list() == ["access_denied", None, None]
        assert "SSE-C" in headers["detail"][0]

    def test_one_replaced_between_its_two_ranges(self, faulty: FaultyS3) -> None:
        big = {0x00091010: ("OB", bytes(900_000))}
        first, second = ct(big | {0x00100020: ("LO", b"FIRST ")}), ct(big | {0x00100020: ("LO", b"SECOND")})
        faulty.before = lambda number: faulty.objects.update({"1.dcm": second} if number == 1 else {})
        row = one(at(faulty), served(faulty, "1.dcm", first))
        assert (row["reason"], row["requests"]) == ("object_changed", 2)
        assert row["PatientID"] is None

    def test_what_was_retried_is_read_whole(self, faulty: FaultyS3) -> None:
        faulty.faults.extend([cut(1000), cut(1)])
        assert one(at(faulty), served(faulty, "1.dcm", ct()))["PatientID"] == "PID-1"


class TestShard:
    """parse_shard: a dataset of arrivals becomes one of headers, part by part."""

    def test_rows_go_out_in_frames_and_none_is_lost(self, s3: S3) -> None:
        run = shard_run(s3)
        rows = [absent(f"shard/{number}") | {"size": 0} for number in range(PART_ROWS + 3)]
        arrivals = pl.DataFrame(rows, schema=ARRIVALS)
        with run.workspace.writer("arrivals/0000", ARRIVALS, part_rows=FRAME_ROWS - 1) as writer:
            writer.add(arrivals)
        reading = parse_shard(run, "0000")
        assert reading == Reading(arrivals=arrivals.height, unread=arrivals.height)
        assert [part.height for part in run.workspace.parts("headers/0000", HEADERS)] == [PART_ROWS, 3]
        assert run.workspace.read("headers/0000", HEADERS)["arrival_id"].equals(arrivals["arrival_id"])

    def test_its_cost_is_counted(self, s3: S3) -> None:
        run = shard_run(s3)
        iso_2022 = {0x00080005: ("CS", b"\\ISO 2022 IR 87"), 0x00100010: ("PN", b"Yamada^Tarou=\x1b$B;3ED\x1b(B")}
        rows = [
            put(s3, "shard/plain.dcm", ct()),
            put(s3, "shard/big.dcm", ct({0x00091010: ("OB", bytes(50_000))})),
            put(s3, "shard/doubtful.dcm", ct(iso_2022)),
            put(s3, "shard/note.txt", b"hello"),
        ]
        run.workspace.write("arrivals/0000", ARRIVALS, pl.DataFrame(rows, schema=ARRIVALS))
        reading = parse_shard(run, "0000")
        headers = run.workspace.read("headers/0000", HEADERS)
        assert reading.counts() == {
            "arrivals": 4,
            "unread": 1,
            "requests": 5,
            "bytes_read": headers["bytes_read"].sum(),
            "fallbacks": {"character_set": 1},
            "requests_per_arrival": 1.25,
            "kib_per_arrival": round(headers["bytes_read"].mean() / 1024, 3),
        }
        assert find_reading(run.workspace, ["0000", "not-read-yet"]) == reading

    def test_a_failed_task_leaves_no_dataset(self, s3: S3) -> None:
        run = shard_run(s3)
        rows = [absent("shard/1.dcm") | {"bucket": "no-such-bucket"}]
        run.workspace.write("arrivals/0000", ARRIVALS, pl.DataFrame(rows, schema=ARRIVALS))
        with pytest.raises(S3UnavailableError):
            parse_shard(run, "0000")
        assert not run.workspace.is_committed("headers/0000")


def shard_run(s3: S3) -> Run:
    """Return a run whose workspace is a folder of its own in the archive's bucket; it needs no ledger."""
    line = pipeline(workspace=f"s3://{BUCKET}/runs/")
    return Run(line, uuid.uuid4().hex, None, S3Uri.parse(line.source.uri), s3, cast("Ledger", None))


class TooLongError(BaseException):
    """As Airflow's AirflowTaskTimeout."""


class TestWholeTask:
    def test_what_a_signal_raises_ends_it_at_once(self, faulty: FaultyS3) -> None:
        """Airflow raises so in a task that takes longer than its execution_timeout."""

        def too_long(*_: object) -> None:
            raise TooLongError

        before = signal.signal(signal.SIGUSR1, too_long)
        faulty.before = lambda number: os.kill(os.getpid(), signal.SIGUSR1) if number == 5 else None
        try:
            with pytest.raises(TooLongError):
                read(at(faulty), [served(faulty, f"{n}.dcm", ct()) for n in range(5000)])
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert len(faulty.requests) < 5000

    def test_what_it_raises_amid_a_header_comes_out_as_it_is(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not in a group, which Airflow would not take for its timeout."""

        def too_long(*_: object, **__: object) -> None:
            raise TooLongError

        monkeypatch.setattr("airlock.imaging.parse.header_plan", too_long)
        with pytest.raises(TooLongError):
            read(s3, [put(s3, "bucket/a.dcm", ct())])

    def test_a_bucket_that_is_gone_fails_the_task(self, s3: S3) -> None:
        arrivals = [put(s3, f"bucket/{n}.dcm", ct()) | {"bucket": "no-such-bucket"} for n in range(5)]
        with pytest.raises(S3UnavailableError, match="NoSuchBucket"):
            read(s3, arrivals)

    def test_no_value_and_no_key_goes_to_a_log(self, s3: S3, caplog: pytest.LogCaptureFixture) -> None:
        odd = {0x00100020: ("LO", b"CANARY" * 60), 0x00080020: ("DA", b"CANARY"), 0x00080005: ("CS", b"CANARY")}
        with caplog.at_level(logging.DEBUG, logger="pydicom"):
            headers = read(s3, [put(s3, "CANARY/x.dcm", ct(odd)), put(s3, "CANARY//y.dcm", ct(odd)[:-10])])
        assert headers["PatientID"].str.starts_with("CANARY").all()
        ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("boto", "urllib3"))]
        assert not [line for line in ours if "CANARY" in line]
