"""What must hold when everything has come to rest: the invariants of the whole, and the state that is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from localaws.imaging.documents import read_document
from tests.explore import contents
from tests.explore.books import contents_of, instances_of, read_payload
from tests.explore.facts import Violation
from tests.explore.history import Clear
from tests.explore.invariants import TRANSIENT, keeps_from_release
from tests.explore.lost import has_lost
from tests.explore.sweeps import every_object_is_an_arrival
from tests.explore.waves import split_studies_are_released_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.explore.books import ArrivalRow, Books
    from tests.explore.facts import Facts, Put
    from tests.explore.memory_s3 import MemoryS3
    from tests.explore.play import Player


LAST = "last"  # begins the names of the runs after everything
TAKEN = "/taken/"  # in the keys of the objects in which runs take in what was parked


@dataclass(frozen=True)
class State:
    """What people and systems see in the end, whatever way led there."""

    downstream: frozenset[tuple[str, frozenset[Any]]]  # instances, or resources with their digests, by subject
    words: frozenset[tuple[tuple[str, ...], ...]]  # pipeline, key and content of files, and their dispositions
    stored: frozenset[tuple[str, str | tuple[str, ...]]]  # in HealthLake: variant, or content of what Airlock has made

    def differences(self, other: State) -> list[str]:
        """Return what this state has and the other has not."""
        mine = [*self.downstream - other.downstream, *self.words - other.words, *self.stored - other.stored]
        return sorted(" ".join(map(_join, item)) for item in mine)


def read_state(facts: Facts, s3: MemoryS3, books: Books) -> State:
    """Return the state of books, destinations and stores."""
    downstream, published = set(), set()
    for key, one in books.newest_queued().items():
        contract = read_payload(s3, one.payload_uri) or {}
        published |= {name for name in (contract.get("fhir") or {}).values() if isinstance(name, str)}
        named = instances_of(contract) | set(contents_of(contract).items())
        downstream.add((_subject(facts, contract, key), frozenset(named)))
    counted = (row for row in books.by_generation() if not _is_replaced(s3, row) and TAKEN not in row.key)
    settled = [row for row in counted if row.reason not in TRANSIENT]
    latest = {(row.pipeline, row.key, facts.content(row)): row for row in settled}
    # A study is published before it is released. If another run holds it afterwards, its resources do not count.
    made = {(name, content) for name, content in facts.read_published().items() if name in published}
    stored = {*facts.read_store().items(), *made}
    return State(frozenset(downstream), _read_words(facts, latest), frozenset(stored))


def _read_words(facts: Facts, latest: dict[tuple[str, str, str], ArrivalRow]) -> frozenset[tuple[tuple[str, ...], ...]]:
    """Return files with their words, those that bring one instance together.

    Which of these counts as the duplicate depends on who claims it first, and not on the order in which runs decide.
    """
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for place, row in sorted(latest.items(), key=lambda item: item[0]):
        image = facts.image(row)
        groups.setdefault(image.sop if image else " ".join(place), []).append(place)
    return frozenset(
        (*places, tuple(sorted(_word(latest[place]) for place in places))) for places in map(tuple, groups.values())
    )


def _is_replaced(s3: MemoryS3, row: ArrivalRow) -> bool:
    """Return whether nothing of a FHIR file counts, whose object is gone: a run that comes later does not take it."""
    there = s3.buckets["archive"].objects.get(row.key)
    return row.key.startswith("fhir/") and row.disposition == "ignored" and (there is None or there.etag != row.etag)


def _join(part: Any) -> str:
    return " ".join(part) if isinstance(part, tuple) else str(part)


def _word(row: ArrivalRow) -> str:
    """Return what became of an arrival; a FHIR file may bring its resources before or after another that has them."""
    brought = row.key.startswith("fhir/") and row.disposition == "duplicate"
    return "released" if brought else row.disposition or "unsettled"


def _subject(facts: Facts, contract: dict[str, Any], key: str) -> str:
    return str(contract.get("StudyInstanceUID") or contract.get("subject", {}).get("reference") or "a file")


def every_arrival_is_settled(player: Player) -> list[Violation]:
    """1: every arrival of a run that has ended well has a disposition."""
    if player.history.claims_only:
        return []
    well = {run.run.key for run in player.runs.values() if run.ended_well}
    rows = [row for row in player.reader.read().arrivals if row.run_key in well and row.disposition is None]
    return [Violation(1, f"{player.facts.describe(row)}, but its run has ended well") for row in rows]


def runs_end_well(player: Player) -> list[Violation]:
    """5: a run whose cause is cured succeeds when it is cleared."""
    ill = [run for run in player.runs.values() if not run.ended_well and not _is_refused(run)]
    return [
        Violation(
            5, f"run {run.spec.name} still fails in {run.stopped_at} after {len(run.errors)} errors: {_last(run)}"
        )
        for run in ill
    ]


def _last(run: Any) -> str:
    return f"{type(run.errors[-1]).__name__}: {str(run.errors[-1])[:200]}" if run.errors else "no error"


def _is_refused(run: Any) -> bool:
    """Return whether a run says that a person must do something else, as a redrive that selects nothing."""
    return any(type(error).__name__ in {"RedriveError", "LostClaimsError"} for error in run.errors)


def released_is_stored(player: Player) -> list[Violation]:
    """2: the data store has what was released."""
    stored = _read_stored(player)
    found = []
    for row in player.reader.read().arrivals:
        image = player.facts.image(row)
        if image is not None and row.disposition == "released" and image.sop not in stored:
            found.append(Violation(2, f"{player.facts.describe(row)}, but the data store does not have it"))
    return found


def _read_stored(player: Player) -> set[str]:
    """Return the SOPInstanceUIDs in the data store."""
    rows = player.facts.services.state.rows(
        "SELECT document FROM image_set_version JOIN image_set ON image_set.id = image_set_id "
        "WHERE version = latest_version AND image_set.is_primary AND state <> 'DELETED'"
    )
    return {
        uid
        for row in rows
        for series in read_document(row["document"])["Study"]["Series"].values()
        for uid in series["Instances"]
    }


def released_is_published(player: Player) -> list[Violation]:
    """2: HealthLake has the study as the newest released contract describes it."""
    stored = player.facts.read_published()
    found = []
    for one in player.reader.read().newest_queued().values():
        contract = read_payload(player.outside.s3, one.payload_uri) or {}
        name = (contract.get("fhir") or {}).get("ImagingStudy")
        if name is not None and set(stored.get(name, ())) != instances_of(contract):
            what = f"revision {one.revision} of {one.subject_key}"
            found.append(Violation(2, f"HealthLake has other instances in {name} than {what}"))
    return found


def published_is_stored(player: Player) -> list[Violation]:
    """2: the data store has what HealthLake names, also of a study that is held after its publication."""
    published = player.facts.read_published()
    studies = {name: uids for name, uids in published.items() if name.startswith("ImagingStudy/")}
    if not studies or has_lost(player.history):
        return []
    stored = _read_stored(player)
    lacking = [name for name, uids in studies.items() if not set(uids) <= stored]
    return [Violation(2, f"HealthLake has instances in {name} that the data store does not have") for name in lacking]


def nothing_waits_for_a_run(player: Player) -> list[Violation]:
    """11: a study that waited for another run, or for its publication, is taken up by the pipeline's next run."""
    if player.history.claims_only or not all(run.ended_well for run in player.runs.values()):
        return []
    now = player.reader.read()
    return [
        Violation(11, f"{player.facts.describe(row)}, and no run takes it up")
        for row in filter(is_waiting, now.arrivals)
        if not _is_held_otherwise(player.facts, now, row)
    ]


def _is_held_otherwise(facts: Facts, now: Books, row: ArrivalRow) -> bool:
    """Return whether another file keeps the study of a waiting arrival from its release."""
    image = facts.image(row)
    others = (other for other in now.arrivals if not is_waiting(other))
    return image is not None and any(
        keeps_from_release(facts, now, one, image.study, set()) or _may_count_to_study_of(facts, one, row)
        for one in others
    )


def _may_count_to_study_of(facts: Facts, unread: ArrivalRow, row: ArrivalRow) -> bool:
    """Return whether an unreadable file may count to the study of an arrival below the same top folder.

    Where no file beside it was accepted, it counts to the study of the nearest folder above: `airlock.imaging.unread`.
    Beside it, it counts to the study of what its own run has accepted, whatever other waves of the night have there.
    """
    image = facts.image(unread)
    (one, top), (other, other_top) = ((each.key.rpartition("/")[0], each.key.split("/")[1]) for each in (unread, row))
    is_unread = image is not None and not image.is_read and unread.disposition == "quarantined"
    is_asked = one != other or unread.run_key == row.run_key
    return is_unread and unread.pipeline == row.pipeline and is_asked and top == other_top


def is_waiting(row: ArrivalRow) -> bool:
    """Return whether an arrival is held for what a later run of its pipeline does by itself."""
    return row.successor is None and row.disposition == "held" and row.reason in {"not_published", "study_in_flight"}


def nothing_names_a_patient(player: Player) -> list[Violation]:
    """7: neither an error nor XCom nor the outbox names a patient."""
    texts = [str(error) for run in player.runs.values() for error in run.errors]
    texts += [str(value) for run in player.runs.values() for value in run.returned.values()]
    texts += [f"{one.payload_uri} {one.subject_key}" for one in player.reader.read().queued]
    named = [text for text in texts if contents.CANARY in text or "PID-" in text or "/fhir/" in text]
    return [Violation(7, f"a text names a patient or a key: {text[:200]}") for text in named]


def sent_what_is_queued(player: Player) -> list[Violation]:
    """13: everything that was queued is sent, and the destination's newest contract is the newest queued one."""
    if player.history.claims_only:
        return []
    waiting = [one for one in player.reader.read().queued if one.state == "pending"]
    return [Violation(13, f"revision {one.revision} of {one.subject_key} is still waiting") for one in waiting]


def newest_is_stored(player: Player) -> list[Violation]:
    """12: the data store shows the newest content that was accepted; of a file in part, what was ever stored of it."""
    arrivals = player.reader.read().arrivals
    whole = {(row.key, row.etag) for row in arrivals if row.disposition in {"released", "duplicate"}}
    in_part = {(row.key, row.etag) for row in arrivals if row.reason == "resources_set_aside"}
    shown, stored = player.facts.read_store(), player.facts.read_versions()
    newest: dict[str, Put] = {}
    before: dict[str, str] = {}
    for one in sorted(player.facts.puts, key=lambda put: (put.last_modified, put.number)):
        if before.get(one.key) == one.content:  # an equal content under a new time is settled, not new
            continue
        before[one.key] = one.content
        place = one.key, contents.etag_of(one.content)
        if place in whole | in_part and _was_seen(player, one):
            variants = contents.variants_of(one.content).items()
            newest |= dict.fromkeys(
                (name for name, variant in variants if place in whole or (name, variant) in stored), one
            )
            for refused in contents.refused_in(one.content):  # the file that the delivery had before was not sent
                newest.pop(refused, None)
    found = []
    for resource, put in newest.items():
        wanted = contents.variants_of(put.content)[resource]
        if shown.get(resource, wanted) != wanted and not _is_held_newer(player, resource, shown[resource], put):
            text = f"the data store has {resource} as {shown[resource]}, the newest file {put.key} says {wanted}"
            found.append(Violation(12, text))
    return found


def _is_held_newer(player: Player, resource: str, variant: str, put: Put) -> bool:
    """Return whether a newer file brought a resource in this variant, and is held for what the service has refused."""
    held = {(row.key, row.etag) for row in player.reader.read().arrivals if row.disposition == "held"}
    return any(
        (one.last_modified, one.number) > (put.last_modified, put.number)
        and (one.key, contents.etag_of(one.content)) in held
        for one in player.facts.puts_of(resource, variant)
    )


def _was_seen(player: Player, put: Put) -> bool:
    """Return whether a run listed while the object was there."""
    return any(put.at <= at and (put.gone_at is None or at <= put.gone_at) for at in player.listed_at.values())


def what_is_parked_lacks_something(player: Player) -> list[Violation]:
    """1: a parked resource waits for one that is not in the data store, its body is there, and no run has it."""
    if player.history.claims_only or not all(run.ended_well for run in player.runs.values()):
        return []
    found = []
    for row in player.reader.read_parked():
        bucket, _, key = row.body_uri.removeprefix("s3://").partition("/")
        if row.due or row.taken_as or row.is_known:
            found.append(Violation(1, f"{row.resource} is still parked and lacks nothing; it waited for {row.target}"))
        if key not in player.outside.s3.buckets[bucket].objects:
            found.append(Violation(1, f"the body of {row.resource}, which waits for {row.target}, is gone"))
    return found


def nothing_that_waited_is_lost(player: Player) -> list[Violation]:
    """1: a resource of a file that was not set aside is in the data store if all that it refers to is."""
    if player.history.claims_only or not all(run.ended_well for run in player.runs.values()):
        return []
    words: dict[tuple[str, str], set[str | None]] = {}
    for row in player.reader.read().arrivals:
        words.setdefault((row.key, row.etag), set()).add(row.disposition)
    refused = {name for put in player.facts.puts for name in contents.refused_in(put.content)}
    stored = set(player.facts.read_store())
    found = []
    for put in player.facts.puts:
        said = words.get((put.key, contents.etag_of(put.content)), set())
        if said and said <= {"released", "parked", "duplicate"}:
            lacking = (name for name, targets in contents.targets_of(put.content).items() if targets <= stored)
            lost = sorted(set(lacking) - stored - refused)
            found += [Violation(1, f"{name} of {put.key} ({put.content}) is in no data store") for name in lost]
    return found


def windows_take_everything(player: Player) -> list[Violation]:
    """10, as far as windows go: what came on time is an arrival after the nights that follow."""
    nights = [run for run in player.runs.values() if run.spec.run_id.startswith("scheduled") and run.spec.window]
    good = [run for run in nights if run.ended_well]
    if not good:
        return []
    last = max(good, key=lambda run: run.spec.window.end)  # type: ignore[union-attr]
    begin = min(run.spec.window.start for run in nights)  # type: ignore[union-attr]
    taken = {(row.key, row.etag) for row in player.reader.read().arrivals}
    return [
        Violation(10, f"{one.key} of {one.at:%a %d %b %H:%M} was taken by no night, the last was {last.spec.name}")
        for one in player.facts.puts
        if one.key in player.history.promised
        and one.gone_at is None
        and (one.key, contents.etag_of(one.content)) not in taken
        and one.last_modified >= begin
        and _is_due(player, one, last)
    ]


def nothing_is_left(player: Player) -> list[Violation]:
    """10: after a run over everything, no object is there that is to come again."""
    if player.history.claims_only or not all(run.ended_well for run in player.runs.values()):
        return []
    left = filter(player.is_left, player.pipelines)
    return [Violation(10, f"an object of pipeline {name} is to come again, and no run takes it") for name in left]


def _is_due(player: Player, put: Put, last: Any) -> bool:
    """Return whether the last good night comes after an upload, and with key dates after its day."""
    end, zone = last.spec.window.end, ZoneInfo(player.history.zone)
    if put.at >= min(end, player.listed_at[last.spec.name]):
        return False
    return not player.history.key_dates or put.at.astimezone(zone).date() < end.astimezone(zone).date()


def auditing_again_changes_nothing(player: Player) -> list[Violation]:
    """5 and 11: a release is final; auditing again changes no word of a released file."""
    if player.history.claims_only or not player.audits_again:
        return []
    before = {(row.pipeline, row.arrival_id): row for row in player.reader.read().arrivals}
    for name, run in list(player.runs.items()):
        if run.ended_well and not name.startswith(LAST):
            player.do(Clear(name, "audit"))
    now = {(row.pipeline, row.arrival_id): row for row in player.reader.read().arrivals}
    return [
        Violation(5, f"{player.facts.describe(row)} when its run is audited again; it was released")
        for place, row in now.items()
        if place in before and before[place].disposition == "released" and row.disposition != "released"
    ]


IN_QUIET: tuple[Callable[[Player], list[Violation]], ...] = (
    every_arrival_is_settled,
    runs_end_well,
    released_is_stored,
    released_is_published,
    published_is_stored,
    nothing_waits_for_a_run,
    split_studies_are_released_once,
    nothing_names_a_patient,
    sent_what_is_queued,
    newest_is_stored,
    what_is_parked_lacks_something,
    nothing_that_waited_is_lost,
    windows_take_everything,
    every_object_is_an_arrival,
    nothing_is_left,
    auditing_again_changes_nothing,
)
