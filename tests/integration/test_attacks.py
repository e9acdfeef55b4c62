"""Attempts to lose a study, to bring one in twice, to route what nobody released, and to make a name leak."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest
from botocore.config import Config
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from airlock.ledger import upgrade
from airlock.ledger.database import Scope, Store
from airlock.storage.s3 import S3
from tests.chain import BUCKETS, DATASTORE, Chain, Place, pipeline
from tests.dicom_files import ct, delivery, sop_uid
from tests.ledger_rows import count_instances
from tests.servers.moto import reset_moto
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

STAGES = ("receive", "buffer", "parse", "validate", "normalize", "stage", "import", "audit", "route")
IN_PLACE = {"uri": "s3://staging/batches/", "mode": "in_place"}
IMPATIENT = {"manifest_wait_seconds": 0.1}
NO_READ_BACK = {"manifest_wait_seconds": 3, "read_back_fraction": 0}


def contracts(place: Place) -> dict[str, dict[str, Any]]:
    bodies = {key: place.s3().get_object(Bucket="contracts", Key=key)["Body"].read() for key in place.keys("contracts")}
    return {key: json.loads(body) for key, body in bodies.items()}


def routed(place: Place) -> list[set[str]]:
    """Return the SOPInstanceUIDs of each routed contract."""
    return [
        {item["SOPInstanceUID"] for series in contract["series"] for item in series["instances"]}
        for contract in contracts(place).values()
    ]


def imaging_of(place: Place) -> Any:
    config = Config(inject_host_prefix=False)
    return boto3.client("medical-imaging", endpoint_url=place.imaging_endpoint, region_name="us-east-1", config=config)


def change_results(place: Place, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every line of a job's result files of this name."""
    for key, body in place.take("output").items():
        if not key.endswith(name):
            place.give("output", {key: body})
            continue
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            change(line)
        place.give("output", {key: "\n".join(map(json.dumps, lines)).encode()})


def two_pipelines(place: Place, one: dict[str, bytes], two: dict[str, bytes], **changes: Any) -> list[Chain]:
    place.put(one, prefix="one/")
    place.put(two, prefix="two/")
    sources = ({"uri": f"s3://archive/{name}/"} for name in ("one", "two"))
    return [Chain(place, pipeline(source["uri"][-4:-1], source=source, **changes)) for source in sources]


class TestUnreleased:
    def test_what_one_pipeline_holds_no_other_pipeline_of_the_store_routes(self, place: Place) -> None:
        one, two = two_pipelines(place, {"1.dcm": ct(1, 1, 1)}, {"2.dcm": ct(1, 1, 2)})
        one.until("import")
        warning = {"type": "TranscodingException", "message": ""}
        change_results(place, "success.ndjson", lambda line: line["importResponse"].update(warnings=[warning]))
        one.stage("audit")
        assert one.report["dispositions"] == {"held": 1}
        two.run()
        assert two.report["reasons"].keys() == {"study_held"}
        assert routed(place) == []

    def test_study_waits_for_the_part_that_another_run_still_brings(self, place: Place) -> None:
        place.put({"a.dcm": ct(1, 1, 1), "b.dcm": ct(1, 2, 1)})
        one = Chain(place, pipeline(limits={"files_per_job": 1}))
        one.until("stage")
        one.task(next(iter(one._operators("import"))), 0)
        one.stage("audit")
        place.put({"c.dcm": ct(1, 3, 1)})
        Chain(place, pipeline(), run_id="manual__2").run()
        assert routed(place) == []

        for stage in ("import", "audit", "route"):
            one.stage(stage)
        assert routed(place) == [{sop_uid(1, series, 1) for series in (1, 2, 3)}]

    def test_success_line_without_an_image_set_proves_nothing(self, place: Place) -> None:
        place.put(delivery(1, 2))
        chain = Chain(place, pipeline())
        chain.until("import")
        change_results(place, "success.ndjson", lambda line: line.pop("importResponse"))
        chain.stage("audit")
        chain.stage("route")
        assert chain.report["dispositions"] == {"failed": 2}
        assert routed(place) == []

    def test_object_replaced_under_an_import_in_place_is_not_imported(self, place: Place) -> None:
        place.put(delivery(1, 3))
        chain = Chain(place, pipeline(staging=IN_PLACE), tries=1)
        chain.until("stage")
        place.put({"study-1/002.dcm": ct(1, 1, 2, pixel=77)})
        with pytest.raises(RuntimeError, match="of its 3 objects 0 are missing and 1 were replaced, and 0 others"):
            chain.stage("import")
        assert place.jobs() == []

        for stage in ("normalize", "stage", "import", "audit", "route"):
            chain.stage(stage)
        assert chain.report["dispositions"] == {"held": 2, "failed": 1}
        assert chain.rows["study-1/002.dcm"]["reason"] == "object_changed"


class TestOnce:
    def test_results_that_are_gone_unsay_nothing(self, place: Place) -> None:
        place.put(delivery(2, 2))
        chain = Chain(place, pipeline(audit=IMPATIENT))
        chain.run()
        first = chain.report, chain.rows
        place.take("output")
        chain.stage("audit")
        chain.stage("route")
        assert (chain.report, chain.rows) == first

    def test_auditing_two_pipelines_of_one_study_again_routes_nothing_more(self, place: Place) -> None:
        chains = two_pipelines(place, {"1.dcm": ct(1, 1, 1)}, {"2.dcm": ct(1, 1, 2)})
        for chain in chains:
            chain.run()
        for chain in chains * 2:
            chain.stage("audit")
            chain.stage("route")
        assert routed(place) == [{sop_uid(1, 1, 1)}, {sop_uid(1, 1, 1), sop_uid(1, 1, 2)}]

    def test_two_stores_that_share_a_destination_overwrite_nothing(self, place: Place) -> None:
        place.put(delivery(1, 1))
        Chain(place, pipeline()).run()
        other = imaging_of(place).create_datastore(datastoreName="other", clientToken="t")["datastoreId"]
        settings = pipeline().healthimaging.model_dump() | {"datastore_id": other}
        deadline = time.monotonic() + 30
        while imaging_of(place).get_datastore(datastoreId=other)["datastoreProperties"]["datastoreStatus"] != "ACTIVE":
            assert time.monotonic() < deadline
        moved = Chain(place, pipeline("moved", healthimaging=settings))
        moved.run()
        assert moved.report["dispositions"] == {"released": 1}
        assert sorted(contract["datastore_id"] for contract in contracts(place).values()) == sorted([DATASTORE, other])

    def test_nul_in_a_uid_does_not_hide_that_the_instance_is_known(self, place: Place) -> None:
        file = ct(1, 1, 1).replace(b"1580.1.1.1", b"1580.1.\0.1")
        place.put({"a.dcm": file})
        Chain(place, pipeline()).run()
        place.put({"b.dcm": file})
        again = Chain(place, pipeline(), run_id="manual__2")
        again.run()
        assert again.report["dispositions"] == {"duplicate": 1}
        assert len(place.jobs()) == 1

    def test_three_runs_at_once_bring_each_instance_in_once(self, place: Place) -> None:
        files = delivery(3, 2)
        one, two = two_pipelines(place, files, {name.replace("/", "-"): body for name, body in files.items()})
        chains = [one, Chain(place, one.pipeline, run_id="manual__2"), two]
        threads = [threading.Thread(target=chain.run) for chain in chains]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [error for chain in chains for error in chain.errors] == []
        assert all(chain.report["balanced"] for chain in chains)
        assert sum(chain.report["arrivals"] for chain in chains) == 12
        with place.ledger() as ledger:
            assert count_instances(ledger, DATASTORE) == {"imported": 6}

    @pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.proof)])
    def test_crash_after_every_write_of_every_stage_changes_nothing(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        place.put({"a": ct(1, 1, 1), "b": ct(1, 2, 1), "c": ct(2, 1, 1), "d.txt": b"text"})
        chain = Chain(place, pipeline(limits={"files_per_job": 2}, audit=NO_READ_BACK), tries=1)
        crashes = [where for stage in STAGES for where in crash_through(chain, stage, monkeypatch, step)]
        assert len(crashes) > 40 / step
        assert chain.report["balanced"]
        assert chain.report["dispositions"] == {"released": 3, "ignored": 1}
        assert len(place.jobs()) == 2
        assert len(contracts(place)) == 2


class CrashError(BaseException):
    """As a killed process, no handler of errors sees it."""


def crash_through(chain: Chain, stage: str, monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[str]:
    """Run a stage again and again, each time crashing *step* writes later, until it gets through; yield the crashes."""
    for number in count(1, step):
        with monkeypatch.context() as patch:
            crash_after(patch, number)
            try:
                chain.stage(stage)
            except CrashError as crash:
                yield str(crash)
            else:
                return


def crash_after(patch: pytest.MonkeyPatch, number: int) -> None:
    """Crash once, right after the write of this number to S3 or the ledger."""
    writes, lock = count(1), threading.Lock()
    crashed: list[str] = []

    def written(what: str) -> None:
        with lock:
            if not crashed and next(writes) == number:
                crashed.append(what)
                raise CrashError(what)

    def wrapped(name: str) -> Callable[..., Any]:
        real = getattr(S3, name)

        def write(self: S3, *args: Any) -> Any:
            result = real(self, *args)
            written(name)
            return result

        return write

    real_writing = Store._writing

    @contextmanager
    def writing(self: Store, *scopes: Scope) -> Iterator[Any]:
        with real_writing(self, *scopes) as connection:
            yield connection
        written(", ".join(map(str, scopes)))

    for name in ("put", "copy", "delete"):
        patch.setattr(S3, name, wrapped(name))
    patch.setattr(Store, "_writing", writing)


def image_sets(imaging: Any) -> set[str]:
    found = imaging.search_image_sets(datastoreId=DATASTORE)["imageSetsMetadataSummaries"]
    return {item["imageSetId"] for item in found}


class TestOneBadThing:
    def test_number_of_frames_of_thousands_of_digits(self, place: Place) -> None:
        place.put({"a.dcm": with_raw(ct(1, 1, 1), 0x00280008, b"9" * 5000), "b.dcm": ct(2, 1, 1)})
        chain = Chain(place, pipeline())
        chain.run()
        assert chain.rows["b.dcm"]["disposition"] == "released"
        assert chain.report["balanced"]

    def test_image_set_deleted_before_it_is_read_back(self, place: Place) -> None:
        place.put(delivery(2, 1))
        chain = Chain(place, pipeline())
        chain.until("import")
        imaging = imaging_of(place)
        gone = imaging.search_image_sets(datastoreId=DATASTORE)["imageSetsMetadataSummaries"][0]["imageSetId"]
        imaging.delete_image_set(datastoreId=DATASTORE, imageSetId=gone)
        until("the image set is gone", lambda: gone not in image_sets(imaging), 30)  # it is DELETING for a while
        chain.stage("audit")
        chain.stage("route")
        assert chain.report["dispositions"] == {"released": 1, "held": 1}
        assert chain.report["reasons"].keys() == {"read_back_mismatch"}

    def test_keys_that_break_clients(self, place: Place) -> None:
        names = [
            *(
                "a b",
                "a+b",
                "%41",
                "a%2Fb",
                "e\u0301",
                "\u00e9",
                "A",
                "a",
                "x//y",
                "../up",
                "./here",
                "a/../b",
                "q?x#f",
            ),
            *(
                "emoji\U0001f600",
                "trailing ",
                "tab\tx",
                "=cmd|'/c calc'!A0",
                "\u202ertl",
                "\"'",
                "&lt;<x>",
                "b\\s",
                "~",
            ),
            *("{c}|^`", "/leading", "l" * 1000, "\x7f", "\x01", "\u00a0", "c,s;"),
        ]
        place.put({name: ct(1, 1, number) for number, name in enumerate(names, start=1)})
        chain = Chain(place, pipeline())
        chain.run()
        assert chain.report["dispositions"] == {"released": len(names)}

    def test_values_that_break_tables(self, place: Place) -> None:
        keywords = ("PatientID", "PatientName", "StudyID", "AccessionNumber", "StudyDescription", "InstitutionName")
        values = (
            "A\0B",
            "A\nB\r\nC",
            "\u202eabc",
            "=1+1",
            "<script>",
            '{"a": 1}',
            "a\\b\\c",
            "\U0001f600",
            "L" * 60_000,
        )
        changes = [{keyword: value} for keyword in keywords for value in values]
        place.put(
            {
                f"{number}.dcm": ct(number, 1, 1, SpecificCharacterSet="ISO_IR 192", **change)
                for number, change in enumerate(changes, start=1)
            }
        )
        chain = Chain(place, pipeline())
        chain.run()
        assert chain.report["balanced"]
        assert chain.report["reasons"]["element_too_long"]["arrivals"] == 5  # InstitutionName has no limit
        assert chain.report["dispositions"]["released"] == len(changes) - 5


class TestSettingsOfTheService:
    @pytest.mark.parametrize(
        "setting",
        [{"choices": "warned_in_success=yes"}, {"choices": "output_uri=as_given"}, {"aws_quotas": "true"}],
        ids=str,
    )
    def test_forms_that_aws_does_not_settle(self, served: Callable[..., Place], setting: dict[str, str]) -> None:
        place = served(**setting)
        place.put(delivery(3, 2) | {"bad-uid.dcm": ct(90, 1, 1, SOPInstanceUID="1.02.3")})
        chain = Chain(place, pipeline(limits={"files_per_job": 2}))
        chain.run()
        assert chain.report["dispositions"] == {"released": 7}
        assert chain.errors == []


CANARY = "CANARYX"


class TestPrivacy:
    @pytest.mark.parametrize("mode", ["copy", "in_place"])
    def test_planted_values_appear_in_no_log(
        self,
        served: Callable[..., Place],
        mode: str,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        place = served()
        place.put({f"{CANARY}/{name}.dcm": body for name, body in planted().items()})
        capfd.readouterr()
        caplog.clear()
        chain = Chain(place, pipeline(staging={**IN_PLACE, "mode": mode}), tries=1)
        chain.run()
        seen = [
            *capfd.readouterr(),
            caplog.text,
            (tmp_path / "localaws.log").read_text(),
            json.dumps([*chain.xcom.values(), chain.report]),
            *("".join(traceback.format_exception(error)) for error in chain.errors),
            *place.keys("workspace"),
            *place.keys("staging"),
            *place.keys("contracts"),
        ]
        assert [text for text in seen if CANARY in text] == []
        assert chain.report["dispositions"]["released"]
        assert {"truncated", "undecodable_text"} <= chain.report["reasons"].keys()


def planted() -> dict[str, bytes]:
    """Return files with the canary in every attribute that a parser may complain about."""
    text = ("PatientID", "PatientName", "StudyID", "AccessionNumber", "StudyDescription", "InstitutionName", "Modality")
    raw = {
        "StudyDate": 0x00080020,
        "StudyTime": 0x00080030,
        "PatientBirthDate": 0x00100030,
        "PatientAge": 0x00101010,
        "SeriesNumber": 0x00200011,
        "InstanceNumber": 0x00200013,
        "Rows": 0x00280010,
        "SpecificCharacterSet": 0x00080005,
        "SOPInstanceUID": 0x00080018,
        "StudyInstanceUID": 0x0020000D,
    }
    files = {name: ct(n, 1, 1, **{name: f"{CANARY} 1"}) for n, name in enumerate(text, start=1)}
    files |= {name: with_raw(ct(n, 1, 1), tag, b"CANARYX 19000101") for n, (name, tag) in enumerate(raw.items(), 20)}
    files["cut"] = ct(40, 1, 1, PatientName=CANARY)[:-100]
    files["undeclared"] = ct(41, 1, 1).replace(b"Test^Number", b"CANARYX^\xff\xfe ")
    return files


def with_raw(file: bytes, tag: int, value: bytes) -> bytes:
    """Return a file with a value that no writer would accept, in the place of what the tag has."""
    source = dcmread(DicomBytesIO(file))
    before = DicomBytesIO()
    before.is_implicit_VR, before.is_little_endian = False, True
    write_dataset(before, Dataset(dict(source.items())))
    head = file[: len(file) - len(before.getvalue())]
    source._dict[Tag(tag)] = RawDataElement(Tag(tag), dictionary_VR(tag), len(value), value, 0, False, True)
    after = DicomBytesIO()
    after.is_implicit_VR, after.is_little_endian = False, True
    write_dataset(after, source)
    return head + after.getvalue()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(endpoint: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{endpoint}/_localaws/calls").raise_for_status()
        except httpx.TransportError:
            assert time.monotonic() < deadline
        else:
            return


@pytest.fixture
def served(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Place]]:
    """Start the emulator as a process of its own, with settings; its log is localaws.log."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(**settings: str) -> Place:
        reset_moto(s3_endpoint)
        url = f"sqlite:///{tmp_path}/ledger.db"
        upgrade(url)
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        port = free_port()
        known = [
            f"--port={port}",
            f"--s3-endpoint={s3_endpoint}",
            f"--state={tmp_path}/state.db",
            f"--datastore={DATASTORE}:t",
            "--submitted-seconds=0",
        ]
        with (tmp_path / "localaws.log").open("wb") as log:
            command = [sys.executable, "-m", "localaws", *known, *flags]
            processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        imaging = f"http://127.0.0.1:{port}"
        wait_for(imaging)
        extra = {
            "region_name": "us-east-1",
            "endpoint_url": s3_endpoint,
            "config_kwargs": {"inject_host_prefix": False},
            "service_config": {"medical-imaging": {"endpoint_url": imaging}},
        }
        connection = {"conn_type": "aws", "login": "testing", "password": "testing", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", url)
        made = Place(s3_endpoint, imaging, url)
        for bucket in BUCKETS:
            made.s3().create_bucket(Bucket=bucket)
        return made

    yield start
    for process in processes:
        process.terminate()
        process.wait(timeout=30)
