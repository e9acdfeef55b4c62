"""A DICOMweb server gets each released instance, whatever it answers and wherever a request is broken off."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx
import polars as pl
import pytest

from airlock.destinations import DestinationError, Message
from airlock.destinations.dicomweb import DicomWeb, Part, StoreAnswer
from airlock.destinations.stow import Stow
from airlock.destinations.web import LONGEST_RETRY_AFTER
from airlock.imaging.contracts import ContractInstance, ContractSeries, StudyContract
from airlock.records import study_key
from airlock.storage.s3uri import S3Uri
from tests.dicom_files import ct, sop_uid, study_uid
from tests.servers.dicomweb import Server, cut, dicomweb_server, module, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.storage.s3 import S3
    from tests.unit.airlock.world import World

ADDRESS = "stow:pacs|" + "d" * 32
CT = "1.2.840.10008.5.1.4.1.1.2"


@dataclass
class Settings:
    """What a route says."""

    instances_per_request: int = 4
    mib_per_request: int = 64
    requests_in_flight: int = 1
    look_up: bool = True


@pytest.fixture
def server() -> Iterator[Server]:
    with dicomweb_server() as started:
        yield started


@dataclass
class Study:
    """A study on S3, and the contract that names its instances."""

    s3: S3
    ledger: Ledger
    server: Server
    files: dict[str, bytes]
    settings: Settings

    @property
    def uids(self) -> list[str]:
        return sorted(self.files)

    def put(self, uid: str, body: bytes) -> None:
        self.s3.put(S3Uri("archive", f"in/{uid}"), body)

    def message(self) -> Message:
        listed = {item.key.removeprefix("in/"): item for item in self.s3.list_objects(S3Uri("archive", "in/"))}
        instances = tuple(
            ContractInstance(
                SOPInstanceUID=uid,
                SOPClassUID=CT,
                source=f"s3://archive/in/{uid}",
                etag=listed[uid].etag,
                size=listed[uid].size,
            )
            for uid in self.uids
        )
        contract = StudyContract(
            study_key=study_key(study_uid(1)),
            pipeline="nightly",
            datastore_id="d" * 32,
            StudyInstanceUID=study_uid(1),
            NumberOfStudyRelatedSeries=1,
            NumberOfStudyRelatedInstances=len(instances),
            series=(ContractSeries(SeriesInstanceUID=f"{study_uid(1)}.1", instances=instances),),
        )
        where = S3Uri("work", "contract.json")
        self.s3.put(where, contract.to_json().encode())
        return Message("0" * 64, "nightly", "run", contract.study_key, 1, "0" * 64, str(where))

    def send(self, message: Message | None = None, auth: httpx.Auth | None = None, timeout: float = 10) -> None:
        with DicomWeb(self.server.url, auth, timeout_seconds=timeout) as web:
            Stow(web, self.s3, self.ledger, ADDRESS, self.settings).send(message or self.message())

    def refused(self, **given: Any) -> DestinationError:
        with pytest.raises(DestinationError) as found:
            self.send(**given)
        return found.value

    def codes(self, state: str) -> dict[str, str | None]:
        known = self.ledger.stow_instances(ADDRESS, pl.Series(self.uids)).filter(state=state)
        return dict(known.select("SOPInstanceUID", "code").iter_rows())


@pytest.fixture
def study(world: World, server: Server) -> Study:
    files = {sop_uid(1, 1, number): ct(instance=number, pixel=number) for number in range(1, 7)}
    made = Study(world.s3, world.ledger, server, files, Settings())
    for uid, body in files.items():
        made.put(uid, body)
    return made


def test_the_server_gets_every_instance_byte_for_byte_and_no_request_is_too_large(study: Study) -> None:
    study.send()
    assert study.server.held == study.files
    assert study.server.requests == [study.uids[:4], study.uids[4:]]
    assert study.codes("stored") == dict.fromkeys(study.uids)


def test_bytes_too_limit_a_request(study: Study) -> None:
    large = ct(instance=1, PixelData=bytes(900_000))
    for uid in study.uids:
        study.put(uid, large.replace(sop_uid(1, 1, 1).encode(), uid.encode()))
    study.settings.mib_per_request = 1
    study.send()
    assert study.server.requests == [[uid] for uid in study.uids]


def test_what_is_stored_is_never_sent_again(study: Study) -> None:
    study.send()
    study.send()
    assert len(study.server.requests) == 2


def test_only_what_is_missing_is_sent_after_a_break(study: Study) -> None:
    study.server.faults.extend([lambda handler, instances: handler.take(instances), refusal(503, Retry_After="7")])
    error = study.refused()
    assert (error.code, error.retryable, error.retry_after) == ("http_503", True, 7)
    study.send()
    assert study.server.requests == [study.uids[:4], study.uids[4:], study.uids[4:]]
    assert study.server.held == study.files


@pytest.mark.parametrize("asked", ["9" * 400, "99999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_server_puts_itself_to_sleep_for_longer_than_a_day(study: Study, asked: str) -> None:
    study.server.faults.append(refusal(503, Retry_After=asked))
    assert study.refused().retry_after == LONGEST_RETRY_AFTER


def test_an_answer_that_is_lost_costs_no_more_than_its_request_once_again(study: Study) -> None:
    study.server.faults.append(cut)
    error = study.refused()
    assert (error.code, error.retryable) == ("RemoteProtocolError", True)
    study.send()
    assert study.server.held == study.files


def test_a_part_of_a_request_is_stored_and_another_refused_for_good(study: Study) -> None:
    bad = study.uids[1]

    def partly(handler: Any, instances: dict[str, bytes]) -> None:
        taken = {uid: body for uid, body in instances.items() if uid != bad}
        handler.server_state.held |= taken
        handler.answer(202, module(stored=dict.fromkeys(taken), failed={bad: 0xA900} if bad in instances else {}))

    study.server.always = partly
    error = study.refused()
    assert (error.code, error.retryable) == ("A900", False)
    assert study.server.held.keys() == study.files.keys() - {bad}
    assert study.codes("refused") == {bad: "A900"}
    study.refused()
    assert study.server.requests[2:] == [[bad]]


@pytest.mark.parametrize(("reason", "retryable"), [(0xA700, True), (0x0122, False), (0xC122, False), (None, True)])
def test_a_409_that_names_its_instances_says_whether_to_try_again(
    study: Study, reason: int | None, retryable: bool
) -> None:
    study.server.always = lambda handler, all_: handler.answer(409, module(failed=dict.fromkeys(all_, reason)))
    assert study.refused().retryable is retryable
    assert study.codes("stored") == {}


def test_warnings_are_kept_and_the_instance_counts_as_stored(study: Study) -> None:
    study.server.always = lambda handler, all_: handler.answer(202, module(stored=dict.fromkeys(all_, 0xB000)))
    study.send()
    assert study.codes("stored") == dict.fromkeys(study.uids, "B000")


@pytest.mark.parametrize("reason", [0x0110, 0x0111, None])
def test_an_instance_that_the_server_has_already_is_stored(study: Study, reason: int | None) -> None:
    study.server.held |= study.files
    study.server.always = lambda handler, all_: handler.answer(409, module(failed=dict.fromkeys(all_, reason)))
    study.send()
    assert study.codes("stored").keys() == study.files.keys()


def test_what_an_answer_settles_is_kept_though_the_server_cannot_be_asked_for_the_rest(study: Study) -> None:
    """Of a server without searches (QIDO-RS) too."""
    odd = study.uids[0]

    def all_but_one(handler: Any, instances: dict[str, bytes]) -> None:
        taken = dict.fromkeys(instances.keys() - {odd})
        handler.answer(202, module(stored=taken, failed={odd: 0x0110} if odd in instances else {}))

    study.server.always, study.server.search_status = all_but_one, 501
    error = study.refused()
    assert (error.code, error.retryable) == ("http_501", True)
    assert study.codes("stored").keys() == set(study.uids[1:4])
    study.server.search_status = 200
    study.server.always = None
    study.send()
    assert study.server.requests == [study.uids[:4], [odd, *study.uids[4:]]]


def test_many_lost_objects_in_one_request_are_as_few(study: Study) -> None:
    study.settings.instances_per_request = 1_000
    sent: list[int] = []

    class Counting(Sink):
        def store(self, parts: list[Part]) -> StoreAnswer:
            sent.append(len(parts))
            return super().store(parts)

    gone = tuple(
        ContractInstance(SOPInstanceUID=f"1.2.{n}", SOPClassUID=CT, source=f"s3://archive/gone/{n}", etag="0", size=1)
        for n in range(990)
    )
    contract = StudyContract.model_validate_json(study.s3.get(S3Uri.parse(study.message().contract_uri)))
    series = (ContractSeries(SeriesInstanceUID="1.2", instances=gone), *contract.series)
    where = S3Uri("archive", "contract.json")
    study.s3.put(where, contract.model_copy(update={"series": series}).to_json().encode())
    with pytest.raises(DestinationError, match="object_gone"):
        Stow(Counting(), study.s3, study.ledger, ADDRESS, study.settings).send(
            replace(study.message(), contract_uri=str(where))
        )
    assert sent[-1] == len(study.uids)


@pytest.mark.parametrize(("body", "code"), [(None, "contract_gone"), (b'{"schema": "x"}', "contract_unreadable")])
def test_a_contract_that_cannot_be_read_is_given_up(study: Study, body: bytes | None, code: str) -> None:
    where = S3Uri("archive", "contract.json")
    if body:
        study.s3.put(where, body)
    error = study.refused(message=replace(study.message(), contract_uri=str(where)))
    assert (error.code, error.retryable) == (code, False)


def test_without_look_up_the_answer_alone_counts(study: Study) -> None:
    study.settings.look_up = False
    study.server.held |= study.files
    study.server.always = refusal(200, b"")
    assert study.refused().code == "no_answer"
    assert study.server.searches == []


@pytest.mark.parametrize("body", [b"", b"<html>OK</html>", b'{"00081199": 1}', b"[" * 100_000, b"<!DOCTYPE x []><x/>"])
def test_a_200_that_says_nothing_proves_nothing(study: Study, body: bytes) -> None:
    study.server.always = refusal(200, body)
    error = study.refused()
    assert (error.code, error.retryable) == ("no_answer", True)
    assert study.codes("stored") == {}


def test_a_server_that_holds_other_content_under_the_uid_is_not_taken_for_done(study: Study) -> None:
    study.send()
    uid = study.uids[0]
    study.put(uid, ct(instance=1, pixel=99))
    study.server.always = lambda handler, all_: handler.answer(409, module(failed=dict.fromkeys(all_, 0x0111)))
    for _ in range(2):
        error = study.refused()
        assert (error.code, error.retryable) == ("other_content", False)


@pytest.mark.parametrize("status", [400, 413, 500])
def test_one_instance_that_spoils_every_request_keeps_no_other_back(study: Study, status: int) -> None:
    bad = study.uids[2]
    study.server.always = lambda handler, instances: (
        handler.answer(status) if bad in instances else handler.take(instances)
    )
    error = study.refused()
    assert (error.code, error.retryable) == (f"http_{status}", status == 500)
    assert study.server.held.keys() == study.files.keys() - {bad}


def test_a_server_that_fails_at_everything_is_left_alone(study: Study) -> None:
    study.settings.instances_per_request = 1
    study.server.always = refusal(500)
    assert study.refused().retryable
    assert len(study.server.requests) == 4


@pytest.mark.parametrize("status", [301, 401, 403, 404, 429])
def test_a_server_that_is_set_up_wrongly_is_asked_once_and_again_later(study: Study, status: int) -> None:
    study.server.always = refusal(status, Location="http://127.0.0.1:9/")
    error = study.refused()
    assert (error.code, error.retryable) == (f"http_{status}", True)
    assert len(study.server.requests) == 1


def test_a_server_that_does_not_answer_is_left_alone(study: Study) -> None:
    released = threading.Event()
    study.server.always = lambda handler, instances: released.wait(20) and None
    error = study.refused(timeout=0.2)
    released.set()
    assert (error.code, error.retryable) == ("ReadTimeout", True)


def test_an_answer_without_end_is_not_read_to_its_end(study: Study) -> None:
    study.server.always = refusal(200, bytes(33 * 1024**2))
    assert study.refused().code == "answer_too_long"


def test_an_object_that_was_replaced_is_not_sent_and_the_others_are(study: Study) -> None:
    message = study.message()
    changed, gone = study.uids[1], study.uids[5]
    study.put(changed, ct(instance=2, pixel=77))
    study.s3.delete("archive", [f"in/{gone}"])
    error = study.refused(message=message)
    assert (error.code, error.retryable) == ("object_changed", False)
    assert study.server.held.keys() == study.files.keys() - {changed, gone}
    assert study.codes("refused") == {changed: "object_changed", gone: "object_gone"}


def test_credentials_go_with_every_request(study: Study) -> None:
    study.send(auth=httpx.BasicAuth("airlock", "secret"))
    assert set(study.server.authorizations) == {"Basic YWlybG9jazpzZWNyZXQ="}


def test_no_more_requests_are_on_their_way_than_the_route_allows(study: Study) -> None:
    study.settings = Settings(instances_per_request=1, requests_in_flight=2)
    both = threading.Barrier(2, timeout=10)

    def together(handler: Any, instances: dict[str, bytes]) -> None:
        both.wait()
        handler.take(instances)

    study.server.always = together
    study.send()
    assert study.server.most_at_once == 2


class Sink:
    """Takes parts piece by piece, as a connection does that is as fast as S3."""

    largest = 0

    def store(self, parts: list[Part]) -> StoreAnswer:
        for part in parts:
            sizes = [len(piece) for piece in part.pieces]
            assert sum(sizes) == part.size
            self.largest = max(self.largest, *sizes, 0)
        return StoreAnswer({}, {})

    def holds(self, *_: str) -> bool:
        return True


def test_no_instance_is_ever_whole_in_memory(study: Study) -> None:
    study.put(study.uids[0], ct(instance=1, PixelData=bytes(12 * 1024**2)))
    sink = Sink()
    message = study.message()
    Stow(sink, study.s3, study.ledger, ADDRESS, study.settings).send(message)
    assert 0 < sink.largest <= 1024**2


def test_no_log_names_a_uid(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    study.server.faults.append(refusal(200, b""))
    with caplog.at_level(logging.DEBUG):
        error = study.refused()
    assert study.server.searches
    ours = [
        record.getMessage() for record in caplog.records if record.name.startswith(("httpx", "httpcore", "airlock"))
    ]
    assert study_uid(1) not in "".join(ours) + repr(error)
