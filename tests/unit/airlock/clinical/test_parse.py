"""Parse against an S3 server: files come apart into a row per line or entry, and no file ends the task."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airlock.clinical.parse import parse, read_chunks
from airlock.records import ARRIVALS
from airlock.run import Run
from airlock.stages.buffer import INDEX, find_shards
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.clinical.books import ndjson, observation, patient, pipeline
from tests.unit.airlock.clinical.world import bundle, delivery, entry, files, parsed, pretty, units
from tests.unit.airlock.world import NIGHT, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.storage.s3 import S3
    from tests.unit.airlock.world import World

P1, P2, O1 = patient("p1"), patient("p2"), observation("o1", "p1")
BOM = b"\xef\xbb\xbf"
TWO = bundle("transaction", entry(P1), entry(O1))
SMALL = {"resource_mib": 0.001}  # 1,049 bytes
LONG = patient("long", extension=[{"url": "http://there/x", "valueString": "x" * 2000}])
DEEP = '{"resourceType":"Patient","id":"deep","a":' + "[" * 200_000 + "]" * 200_000 + "}"


def told(run: Run[Any], name: str) -> list[tuple[int, str]]:
    """Return line and id (or reason) of each unit of a file."""
    rows = [row for row in units(run) if row["file"] == name]
    return [(row["line"], row["reason"] or row["resource_id"]) for row in rows]


class Shelf:
    """An S3 of one bucket in memory, whose objects come in pieces of a few bytes, or made as they are read."""

    def __init__(self, objects: dict[str, Any], piece: int = 1024**2) -> None:
        self.objects: dict[str, Any] = objects
        self.piece = piece

    def stream(self, uri: S3Uri, etag: str | None = None) -> Iterator[bytes]:
        content = self.objects[uri.key]
        if not isinstance(content, bytes):
            yield from content()
            return
        for start in range(0, len(content), self.piece):
            yield content[start : start + self.piece]

    def put(self, uri: S3Uri, body: bytes, content_type: str = "") -> None:
        self.objects[uri.key] = body

    def get(self, uri: S3Uri) -> bytes:
        if uri.key not in self.objects:
            raise FileNotFoundError
        return cast("bytes", self.objects[uri.key])


def on_shelf(shelf: Shelf, **changes: Any) -> Run[Any]:
    """Return a run whose delivery is what lies on a shelf."""
    run = Run(pipeline(**changes), "one", None, S3Uri("archive", ""), cast("S3", shelf), cast("Any", None))
    base = {"bucket": "archive", "etag": "e", "size": 1, "last_modified": NIGHT}
    arrivals = [{"arrival_id": key, "key": key, **base} for key in sorted(shelf.objects)]
    run.workspace.write("arrivals/0000", ARRIVALS, frame(arrivals, ARRIVALS))
    run.workspace.write_json(INDEX, {"shards": ["0000"]})
    return run


def taken(files: dict[str, Any], **changes: Any) -> Run[Any]:
    """Parse files, bytes or lists of resources and raw lines, without a server."""
    shelf = Shelf({name: content if isinstance(content, bytes) else ndjson(content) for name, content in files.items()})
    run = on_shelf(shelf, **changes)
    parse(run, "0000")
    return run


class TestLines:
    @pytest.mark.parametrize("line", [json.dumps(P1), json.dumps(P1, separators=(" , ", " : "))])
    @pytest.mark.parametrize(
        "name", ["a.ndjson", "a.NDJSON", "a.jsonl", "a.json", "part-00000", "Patient.ndjson.part1"]
    )
    def test_every_name_will_do(self, name: str, line: str) -> None:
        assert told(taken({name: [line, P2]}), name) == [(1, "p1"), (2, "p2")]

    def test_a_line_is_kept_as_it_stands(self) -> None:
        line = '{ "resourceType" : "Observation","id":"o1" , "valueDecimal": 70.10, "note": "é\\u00e9" }'
        (row,) = units(taken({"a.ndjson": [f"  {line}\t\r"]}))
        assert row["body"] == line

    @pytest.mark.parametrize("name", ["a.ndjson", "a.json"])
    @pytest.mark.parametrize(
        "body",
        [
            BOM + ndjson([P1, P2]),
            ndjson([P1, P2]).replace(b"\n", b"\r\n"),
            ndjson([P1, P2]).rstrip(b"\n"),
            gzip.compress(ndjson([P1, P2]), mtime=0),
            gzip.compress(BOM + ndjson([P1]), mtime=0) + gzip.compress(ndjson([P2]), mtime=0) + bytes(512),
            gzip.compress(json.dumps(P1).encode(), mtime=0)
            + bytes(3)
            + gzip.compress(b"\n" + json.dumps(P2).encode(), mtime=0),
        ],
    )
    def test_marks_line_ends_and_gzip_do_not_matter(self, name: str, body: bytes) -> None:
        assert told(taken({name: body}), name) == [(1, "p1"), (2, "p2")]

    def test_blank_lines_are_no_units_and_count(self) -> None:
        assert told(taken({"a.ndjson": ["", P1, " ", "\r", P2]}), "a.ndjson") == [(2, "p1"), (5, "p2")]

    @pytest.mark.parametrize(
        ("line", "reason", "detail"),
        [
            ("not json", "not_json", "no JSON"),
            (json.dumps(P1)[:-1], "not_json", "no JSON"),
            ('{"resourceType":"Patient","id":"a","multipleBirthInteger":NaN}', "not_json", "NaN is not JSON"),
            ('{"resourceType":"Patient","id":"a","id":"b"}', "not_json", "a name comes twice in one object"),
            (DEEP, "not_json", "nested too deeply"),
            ("[]", "not_json", "no JSON object"),
            ("null", "not_json", "no JSON object"),
            ("17", "not_json", "no JSON object"),
            ('"Patient"', "not_json", "no JSON object"),
            ('{"id":"a"}', "unknown_resource_type", None),
            ('{"resourceType":"Nonsense","id":"a"}', "unknown_resource_type", None),
            ('{"resourceType":"Sequence","id":"a"}', "fhir_version", "Sequence is a type of STU3"),
            ('{"resourceType":"InventoryItem","id":"a"}', "fhir_version", "InventoryItem is a type of R5"),
            ('{"resourceType":"Patient"}', "missing_resource_id", None),
            ('{"resourceType":"Patient","id":"a_b"}', "invalid_resource_id", None),
            (json.dumps(TWO), "mixed_file", None),
        ],
    )
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_a_line_that_is_nothing_costs_itself_alone(
        self, line: str, reason: str, detail: str | None, place: int
    ) -> None:
        lines: list[Any] = [P1, P2]
        lines.insert(place, line)
        run = taken({"a.ndjson": lines})
        rows = {row["line"]: row for row in units(run)}
        wrong = rows.pop(place + 1)
        assert (wrong["reason"], wrong["detail"], wrong["body"]) == (reason, detail, None)
        assert [row["resource_id"] for row in rows.values()] == ["p1", "p2"]
        assert files(run)["a.ndjson"]["reason"] is None

    def test_bytes_that_are_no_utf_8_cost_their_line(self) -> None:
        body = ndjson([P1]) + b'{"resourceType":"Patient","id":"a","x":"\xe9"}\n' + ndjson([P2])
        run = taken({"a.ndjson": body})
        assert told(run, "a.ndjson") == [(1, "p1"), (2, "not_json"), (3, "p2")]

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_a_line_that_is_too_long_is_told_with_its_size(self, place: int) -> None:
        lines: list[Any] = [P1, P2]
        lines.insert(place, LONG)
        rows = units(taken({"a.ndjson": lines}, parse=SMALL))
        assert [row["reason"] for row in rows].count("resource_too_large") == 1
        assert rows[place]["detail"] == f"{len(json.dumps(LONG))} bytes"
        assert (rows[place]["line"], rows[place]["body"]) == (place + 1, None)

    def test_60_mb_in_a_line_are_read_past(self) -> None:
        body = b'{"resourceType":"Patient","id":"a","x":"' + b"x" * 60_000_000 + b'"}\n' + ndjson([P2])
        run = taken({"a.ndjson.gz": gzip.compress(body, 1)})
        assert told(run, "a.ndjson.gz") == [(1, "resource_too_large"), (2, "p2")]


class TestBundles:
    @pytest.mark.parametrize(
        "body", [json.dumps(TWO).encode(), pretty(TWO), BOM + pretty(TWO), gzip.compress(pretty(TWO), mtime=0)]
    )
    @pytest.mark.parametrize("name", ["bundle.json", "bundle.ndjson", "bundle"])
    def test_a_file_that_is_one_bundle(self, name: str, body: bytes) -> None:
        run = taken({name: body})
        assert told(run, name) == [(1, "p1"), (2, "o1")]
        assert files(run)[name]["units"] == 2

    @pytest.mark.parametrize("name", ["a.ndjson", "a.json"])
    def test_a_file_of_bundles_counts_its_entries_through(self, name: str) -> None:
        wrong = bundle("batch", entry(P1, method="DELETE"), {}, entry(P2))
        run = taken({name: [TWO, "", wrong, "nonsense", bundle("history", entry(P1)), 7, P1, bundle("batch")]})
        assert told(run, name) == [
            (1, "p1"),
            (2, "o1"),
            (3, "unsupported_entry"),
            (4, "unsupported_entry"),
            (5, "p2"),
            (6, "not_json"),
            (7, "unsupported_entry"),
            (8, "not_json"),
            (9, "mixed_file"),
        ]

    def test_a_name_that_comes_twice_within_a_bundle_stops_it(self) -> None:
        twice = json.dumps(TWO).replace('"active": true', '"active": true, "active": false')
        assert told(taken({"a.ndjson": [twice]}), "a.ndjson") == [(1, "not_json")]

    def test_a_bundle_may_be_larger_than_a_resource_may(self) -> None:
        many = bundle("collection", *(entry(patient(f"p{number}")) for number in range(60)))
        run = taken({"one-line.json": json.dumps(many).encode(), "b.json": pretty(many)}, parse=SMALL)
        assert len(told(run, "one-line.json")) == len(told(run, "b.json")) == 60

    def test_but_not_without_end(self) -> None:
        many = bundle("collection", *(entry(patient(f"p{number}")) for number in range(60)))
        run = taken({"b.json": pretty(many)}, parse=SMALL | {"bundle_mib": 0.002})
        row = files(run)["b.json"]
        assert (row["reason"], row["units"]) == ("file_too_large", 0)


class TestFiles:
    @pytest.mark.parametrize("name", ["p.json", "p.ndjson", "p"])
    def test_one_resource_over_several_lines(self, name: str) -> None:
        (row,) = units(taken({name: BOM + pretty(P1)}))
        assert (row["line"], row["resource_id"], json.loads(row["body"])) == (1, "p1", P1)

    def test_one_resource_over_several_lines_may_be_too_large(self) -> None:
        run = taken({"p.json": pretty(LONG)}, parse=SMALL)
        assert told(run, "p.json") == [(1, "resource_too_large")]

    @pytest.mark.parametrize(
        ("name", "body", "reason"),
        [
            ("empty.ndjson", b"", "empty_object"),
            ("blank.ndjson", b" \r\n\n", "empty_object"),
            ("blank.json", b"\n", "empty_object"),
            ("mark.ndjson", BOM, "empty_object"),
            ("empty.ndjson.gz", gzip.compress(b"", mtime=0), "empty_object"),
            ("no-entries.json", pretty(bundle("searchset")), "empty_object"),
            ("image.dcm", bytes(128) + b"DICM" + bytes(100), "not_fhir"),
            ("page.xml", b"<ClinicalDocument/>", "not_fhir"),
            ("list.json", b"[1,\n2]", "not_fhir"),
            ("array.json", b"[" + json.dumps(P1).encode() + b"]", "not_fhir"),
            ("other.json", b'{"a":1}', "not_fhir"),
            ("other.json", b'{\n"a":1\n}', "not_fhir"),
            ("cut.json", pretty(TWO)[:-20], "not_fhir"),
            ("wide.json", "\ufeff{}".encode("utf-16"), "not_fhir"),
            ("notes.txt", b"left by the exporter\n", "sidecar"),
            ("_SUCCESS", b"", "sidecar"),
            (".DS_Store", b"\0\0\0\1Bud1", "sidecar"),
            ("manifest.json", b'{"transactionTime":"2026-01-01","output":[]}', "sidecar"),
            ("manifest.json", pretty({"output": []}), "sidecar"),
            ("delivery.json", b'{"files": 3}\n', "sidecar"),
            ("cut.ndjson.gz", gzip.compress(ndjson([P1]), mtime=0)[:-9], "truncated"),
            ("damaged.ndjson.gz", gzip.compress(ndjson([P1]), mtime=0) + b"\x1f\x8b garbage", "truncated"),
        ],
    )
    def test_a_file_that_is_nothing_has_one_reason(self, name: str, body: bytes, reason: str) -> None:
        run = taken({name: body, "good.ndjson": [P1]})
        assert files(run)[name]["reason"] == reason
        assert files(run)["good.ndjson"]["reason"] is None

    def test_a_sidecars_name_hides_no_resources(self) -> None:
        run = taken({"manifest.json": [P1], "list.txt": [P2]})
        assert [row["resource_id"] for row in units(run)] == ["p2", "p1"]

    def test_an_object_without_a_type_may_be_the_first_line(self) -> None:
        run = taken({"a.json": ['{"id":"a"}', P1]})
        assert told(run, "a.json") == [(1, "unknown_resource_type"), (2, "p1")]

    def test_what_came_before_a_cut_is_counted(self) -> None:
        noise = random.Random(1).randbytes(3_000_000).hex()
        body = gzip.compress(ndjson([P1, P2, f'"{noise}"']), 1)[:-1000]
        run = taken({"a.ndjson.gz": body})
        assert files(run)["a.ndjson.gz"]["reason"] == "truncated"
        assert [row["resource_id"] for row in units(run)][:2] == ["p1", "p2"]

    def test_bytes_are_counted_as_stored(self) -> None:
        body = gzip.compress(ndjson([P1] * 1000))
        assert files(taken({"a.ndjson.gz": body}))["a.ndjson.gz"]["bytes_read"] == len(body)

    def test_counts_are_returned_and_progress_told(self, world: World) -> None:
        run = delivery(world, {"a.ndjson": [P1, "x"], "b.ndjson": b""})
        seen: list[tuple[int, ...]] = []
        counts = parse(run, "0000", lambda *numbers: seen.append(numbers))
        assert counts == {"arrivals": 2, "unread": 1, "units": 2, "bytes_read": len(ndjson([P1, "x"]))}
        assert seen == [(1, 2, 2), (2, 2, 2)]


class TestObjects:
    def test_one_that_was_replaced_since_is_told(self, world: World) -> None:
        run = delivery(world, {"a.ndjson": [P1], "b.ndjson": [P2]})
        world.put("s3://archive/in/one/a.ndjson", ndjson([P2, P1]))
        parse(run, "0000")
        assert (files(run)["a.ndjson"]["reason"], files(run)["a.ndjson"]["units"]) == ("object_changed", 0)
        assert told(run, "b.ndjson") == [(1, "p2")]

    def test_one_that_was_deleted_since_is_told(self, world: World) -> None:
        run = delivery(world, {"a.ndjson": [P1], "b.ndjson": [P2]})
        world.s3.delete("archive", ["in/one/a.ndjson"])
        parse(run, "0000")
        assert files(run)["a.ndjson"]["reason"] == "object_gone"
        assert told(run, "b.ndjson") == [(1, "p2")]

    def test_one_that_s3_refuses_is_told(self, world: World) -> None:
        run = delivery(world, {"a.ndjson": [P1], "b.ndjson": [P2]})
        deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::archive/*/a.*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
        world.s3.client.put_bucket_policy(Bucket="archive", Policy=policy)
        parse(run, "0000")
        assert files(run)["a.ndjson"]["reason"] == "access_denied"
        assert told(run, "b.ndjson") == [(1, "p2")]

    def test_a_bucket_that_is_gone_ends_the_task(self, world: World) -> None:
        run = delivery(world, {"MUELLER.ndjson": [P1]})
        world.s3.delete("archive", ["in/one/MUELLER.ndjson"])
        world.s3.client.delete_bucket(Bucket="archive")
        with pytest.raises(S3Error, match=r"bucket 'archive' cannot be read \(GetObject: NoSuchBucket\)") as caught:
            parse(run, "0000")
        assert "MUELLER" not in str(caught.value)


class TestDatasets:
    def test_chunks_are_written_as_they_fill(self, world: World) -> None:
        lines = [observation(f"o{number}", "p1", note=[{"text": "x" * 100_000}]) for number in range(40)]
        run = parsed(world, {"a.ndjson": lines}, parse={"chunk_mib": 1})
        chunks = read_chunks(run, find_shards(run))
        assert len(chunks) == 4
        assert chunks == sorted(chunks)
        assert [row["line"] for row in units(run)] == list(range(1, 41))

    def test_a_shard_that_was_not_parsed_has_none(self, world: World) -> None:
        run = delivery(world, {"a.ndjson": [P1]})
        assert read_chunks(run, find_shards(run)) == []

    def test_parsing_again_gives_the_same(self, world: World) -> None:
        run = parsed(world, {"a.ndjson": [P1, "x"], "b.json": pretty(TWO)}, parse={"shard_size": 1})
        first = (units(run), files(run), world.keys(str(run.workspace.root)))
        for shard in find_shards(run):
            parse(run, shard)
        assert (units(run), files(run), world.keys(str(run.workspace.root))) == first


LINES = st.sampled_from(
    [
        json.dumps(P1),
        json.dumps(O1),
        json.dumps(TWO),
        "",
        " \r",
        "x",
        "{",
        "}",
        "[",
        "7",
        '{"id":"a"}',
        '{"a":1',
        "\ufeff{}",
    ]
)
NAMES = st.sampled_from(["a.ndjson", "a.json", "a.ndjson.gz", "_SUCCESS", "manifest.json"])


class Full(Shelf):
    """One that forgets the rows it is given: what is measured is parse alone."""

    def put(self, uri: S3Uri, body: bytes, content_type: str = "") -> None:
        if "/resources/" not in uri.key or uri.key.endswith(".json"):
            super().put(uri, body, content_type)


def keyed(run: Run[Any]) -> list[tuple[Any, ...]]:
    return [(row["line"], row["reason"], row["resource_id"], row["body"]) for row in units(run)]


class TestWhateverComes:
    @given(st.lists(LINES, max_size=6), NAMES, st.integers(1, 40))
    @settings(max_examples=150)
    def test_every_line_and_every_entry_is_one_row_wherever_the_file_is_cut(
        self, lines: list[str], name: str, piece: int
    ) -> None:
        body = "\n".join(lines).encode()
        runs = [on_shelf(Shelf({name: body}, piece)), on_shelf(Shelf({name: gzip.compress(body, mtime=0)}))]
        for run in runs:
            parse(run, "0000")
        rows, file = units(runs[0]), files(runs[0])[name]
        assert keyed(runs[1]) == keyed(runs[0])
        places = [row["line"] for row in rows]
        assert places == sorted(set(places))
        assert file["units"] == len(rows)
        assert bool(rows) != bool(file["reason"])
        filled = [line for line in lines if line.strip()]
        if "Bundle" not in body.decode() and rows and not _is_one_text(body):
            assert len(rows) == len(filled)

    @given(st.data())
    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    def test_damaged_files_end_nothing(self, data: st.DataObject) -> None:
        body = bytearray(
            data.draw(st.sampled_from([ndjson([P1, O1, TWO]), pretty(TWO), gzip.compress(ndjson([P1, O1]))]))
        )
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(body) - 1))
            body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        run = on_shelf(Shelf({"a.ndjson": bytes(body), "b": bytes(body), "c.ndjson": ndjson([P2])}, 64))
        assert parse(run, "0000")["arrivals"] == 3
        assert [row["resource_id"] for row in units(run) if row["file"] == "c.ndjson"] == ["p2"]


def _is_one_text(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body.removeprefix(BOM)), dict)
    except ValueError:
        return False


class TestMemory:
    @pytest.mark.parametrize("packed", [False, True])
    def test_it_does_not_grow_with_the_file(self, packed: bool) -> None:
        def content() -> Iterator[bytes]:
            packer = zlib.compressobj(1, wbits=31)
            for number in range(4000):
                line = ndjson([observation(f"o{number}", "p1", note=[{"text": f"{number:05} " * 800}])])
                yield packer.compress(line) if packed else line
            yield packer.flush() if packed else b""

        run = on_shelf(Full({"a.ndjson": content}), parse={"chunk_mib": 1})
        tracemalloc.start()
        counts = parse(run, "0000")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert counts["units"] == 4000
        assert peak < 7_000_000  # of 20 MB


class Broken(Shelf):
    """One whose objects break off with an error."""

    def __init__(self, objects: dict[str, Any], error: Exception) -> None:
        super().__init__(objects)
        self.error = error

    def stream(self, uri: S3Uri, etag: str | None = None) -> Iterator[bytes]:
        yield from super().stream(uri, etag)
        raise self.error


def refused(code: str) -> S3Error:
    return S3Error("an object in bucket 'archive' cannot be read", "GetObject", code)


class TestBrokenOff:
    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("PreconditionFailed", "object_changed"),
            ("412", "object_changed"),
            ("InvalidRange", "object_changed"),
            ("NoSuchKey", "object_gone"),
            ("MethodNotAllowed", "object_gone"),
            ("AccessDenied", "access_denied"),
            ("InvalidObjectState", "access_denied"),
            ("KMS.DisabledException", "access_denied"),
        ],
    )
    def test_a_file_that_s3_takes_away_in_the_middle_has_its_reason(self, code: str, reason: str) -> None:
        run = on_shelf(Broken({"a.ndjson": ndjson([P1, P2])}, refused(code)))
        parse(run, "0000")
        row = files(run)["a.ndjson"]
        assert (row["reason"], row["detail"], row["units"]) == (reason, code, 2)

    def test_an_error_of_one_file_that_nobody_thought_of_is_its_reason(self) -> None:
        run = on_shelf(Broken({"a.ndjson": ndjson([P1])}, MemoryError("of a patient")))
        parse(run, "0000")
        assert (files(run)["a.ndjson"]["reason"], files(run)["a.ndjson"]["detail"]) == ("unreadable", "MemoryError")

    @pytest.mark.parametrize("code", ["SlowDown", "InternalError", "InvalidAccessKeyId", "EndpointConnectionError"])
    def test_what_is_no_files_fault_ends_the_task(self, code: str) -> None:
        run = on_shelf(Broken({"a.ndjson": ndjson([P1])}, refused(code)))
        with pytest.raises(S3Error, match=code):
            parse(run, "0000")


MANY = [patient(f"p{number}") for number in range(50)]
ENTRIES = bundle("batch", *map(entry, MANY))


class TestCaps:
    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("a.ndjson", ndjson(MANY)),
            ("a.ndjson.gz", gzip.compress(ndjson(MANY))),
            ("a.ndjson.gz", b"".join(gzip.compress(ndjson([one])) for one in MANY)),
            ("a.json", pretty(ENTRIES)),
            ("a.json.gz", gzip.compress(pretty(ENTRIES))),
            ("a.ndjson", ndjson([ENTRIES])),
            ("a.ndjson", ndjson([bundle("batch", entry(one)) for one in MANY])),
        ],
        ids=["plain", "gzip", "gzip members", "Bundle", "gzip Bundle", "Bundle in a line", "Bundles in lines"],
    )
    @pytest.mark.parametrize(
        ("limits", "detail"),
        [
            ({"max_units": 49}, "more than 49 lines or entries, see parse.max_units"),
            ({"unpacked_mib": 0.001}, "more than 0.001 MiB unpacked, see parse.unpacked_mib"),
        ],
    )
    def test_a_file_with_more_than_that_is_set_aside_as_a_whole(
        self, name: str, body: bytes, limits: dict[str, Any], detail: str
    ) -> None:
        run = taken({name: body, "b.ndjson": ndjson([P1])}, parse=limits)
        row = files(run)[name]
        assert (row["reason"], row["detail"], row["units"]) == ("file_too_large", detail, 0)
        assert files(run)["b.ndjson"]["reason"] is None

    def test_what_is_at_the_limit_comes_in(self) -> None:
        body = ndjson(MANY)
        limits = {"max_units": 50, "unpacked_mib": len(body) / 1024**2}
        assert files(taken({"a.ndjson.gz": gzip.compress(body)}, parse=limits))["a.ndjson.gz"]["units"] == 50

    @pytest.mark.parametrize("limits", [{"max_units": 5000}, {"unpacked_mib": 0.5}])
    def test_nothing_is_read_beyond_it(self, limits: dict[str, Any]) -> None:
        given = 0

        def without_end() -> Iterator[bytes]:
            nonlocal given
            packer = zlib.compressobj(wbits=31)
            while True:
                given += 1
                yield packer.compress(ndjson([P1]) * 1000) + packer.flush(zlib.Z_SYNC_FLUSH)

        run = on_shelf(Full({"a.ndjson.gz": without_end}), parse=limits)
        parse(run, "0000")
        assert files(run)["a.ndjson.gz"]["reason"] == "file_too_large"
        assert given < 20

    def test_a_file_that_is_larger_as_it_lies_there_is_not_read_at_all(self, world: World) -> None:
        run = parsed(world, {"a.ndjson": ndjson(MANY)}, parse={"unpacked_mib": 0.001})
        assert (files(run)["a.ndjson"]["reason"], files(run)["a.ndjson"]["bytes_read"]) == ("file_too_large", 0)


def test_a_file_of_nothing_but_faults_is_set_aside_as_a_whole(world: World) -> None:
    run = parsed(world, {"a.ndjson": b"1\n" * 50, "b.ndjson": b"1\n" * 3}, parse={"max_faulty": 10})
    found = files(run)
    assert (found["a.ndjson"]["reason"], found["a.ndjson"]["units"]) == ("not_fhir", 10)
    assert (found["b.ndjson"]["reason"], found["b.ndjson"]["units"]) == (None, 3)
