"""The invariants of docs/architecture.md that hold at every point, as functions over the books before and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.explore.books import STOPPED, contents_of, instances_of, key_of_study, read_payload
from tests.explore.contents import variants_of
from tests.explore.facts import Violation
from tests.explore.waves import released_before_its_waves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.explore.books import ArrivalRow, Books, Queued
    from tests.explore.facts import Facts
    from tests.explore.memory_s3 import MemoryS3

# Reasons of S3 that say nothing about the file: the next runs take it again before it holds its study.
TRANSIENT = frozenset({"access_denied", "object_gone", "object_changed", "instance_claimed", "awaited_reference"})
_NOT_ACCEPTED = {"quarantined", "duplicate", "ignored"}
HELD_FOR_THE_STUDY = frozenset(
    {"study_held", "study_incomplete", "sibling_unread", "not_published", "waiting_for_file", "run_unbalanced"}
)


def unreleased_downstream(facts: Facts, s3: MemoryS3, before: Books, now: Books) -> Iterator[Violation]:
    """3: a queued contract names released files only."""
    released = {row.sop for row in now.arrivals if row.disposition == "released"}
    for one in _new_in_queue(before, now):
        contract = read_payload(s3, one.payload_uri)
        if contract is None:
            yield Violation(3, f"revision {one.revision} of {one.subject_key} is queued, its contract does not exist")
            continue
        for sop in sorted(instances_of(contract) - released):
            rows = [facts.describe(row) for row in now.arrivals if row.sop == sop or _is_sop(facts, row, sop)]
            yield Violation(3, f"a queued contract names what nobody released: {'; '.join(rows)}")


def twice(facts: Facts, s3: MemoryS3, before: Books, now: Books) -> Iterator[Violation]:
    """4: one job per batch; a destination gets a revision once, and no revision twice in a row."""
    for table in ("import_job", "fhir_job"):
        again = f"SELECT input_uri FROM {table} WHERE status <> 'FAILED' GROUP BY input_uri HAVING count(*) > 1"
        for _ in facts.services.state.rows(again):
            yield Violation(4, "a batch was given to two jobs")
    if not _new_in_queue(before, now):
        return
    latest: dict[tuple[str, str | None], Queued] = {}
    for one in sorted((one for one in now.queued if one.destination), key=lambda one: one.number):
        place = one.subject_key, one.destination
        earlier = latest.get(place)
        if earlier is not None and earlier.digest == one.digest:
            yield Violation(4, f"revisions {earlier.revision} and {one.revision} of {one.subject_key} are the same")
        latest[place] = one


def incomplete_release(facts: Facts, s3: MemoryS3, before: Books, now: Books) -> Iterator[Violation]:
    """11: no study is released while a file of it is on its way, was refused, or waits for a person."""
    _note_siblings(facts, before, now)
    earlier = {(row.pipeline, row.arrival_id) for row in before.arrivals if row.disposition == "released"}
    fresh = [
        row
        for row in now.arrivals
        if row.disposition == "released" and (row.pipeline, row.arrival_id) not in earlier and facts.image(row)
    ]
    for study in sorted({image.study for row in fresh if (image := facts.image(row))}):
        runs = {row.run_key for row in fresh if (image := facts.image(row)) and image.study == study}
        for row in now.arrivals:
            if why := keeps_from_release(facts, now, row, study, runs):
                yield Violation(11, f"a study is released although {facts.describe(row)}: {why}")


def keeps_from_release(facts: Facts, now: Books, row: ArrivalRow, study: str, runs: set[str]) -> str | None:
    """Return why an arrival keeps a study from its release; None if it does not."""
    image = facts.image(row)
    if image is None or row.successor is not None:
        return None
    if not image.is_read:
        return _unread_holds(facts, now, row, study)
    if image.study != study:
        return None
    if row.disposition is None:
        late = row.run_key in facts.validated and row.run_key not in runs
        return "its run has read it and has not decided on it" if late else None
    if row.reason in TRANSIENT or _is_replaced(now, row):
        return None
    if row.disposition in STOPPED:
        there = any(other.disposition == "released" and _is_sop(facts, other, image.sop) for other in now.arrivals)
        return None if there else "it was refused, and no other file brought its instance"
    if row.disposition == "held" and row.reason not in HELD_FOR_THE_STUDY:
        return "it waits for a person"
    return None


def _unread_holds(facts: Facts, now: Books, row: ArrivalRow, study: str) -> str | None:
    """Return why an unreadable file holds a study: when its run decided on it, all its neighbours were of that study.

    What comes into its folder later changes nothing.
    """
    if row.disposition is None or row.reason in TRANSIENT or _is_replaced(now, row):
        return None
    is_sibling = facts.siblings.get((row.pipeline, row.arrival_id)) == study
    return "it cannot be read, and all its neighbours were of this study" if is_sibling else None


def _note_siblings(facts: Facts, before: Books, now: Books) -> None:
    """Note the studies of the unreadable files on which a run has just decided.

    Of the files beside them those count that were accepted. A second copy in the folder says nothing.
    """
    decided = {(row.pipeline, row.arrival_id) for row in before.arrivals if row.disposition}
    for row in now.arrivals:
        image = facts.image(row)
        if image is None or image.is_read or not row.disposition or (row.pipeline, row.arrival_id) in decided:
            continue
        folder = row.key.rpartition("/")[0]
        beside = [one for one in now.arrivals if (one.pipeline, one.key.rpartition("/")[0]) == (row.pipeline, folder)]
        accepted = [one for one in beside if one.disposition not in _NOT_ACCEPTED]
        in_run = {facts.study(one) for one in accepted if one.run_key == row.run_key}
        in_folder = {facts.study(one) for one in beside}  # of two studies: the file counts to none
        if in_run - {None} == in_folder - {None} and len(in_folder - {None}) == 1:
            (facts.siblings[row.pipeline, row.arrival_id],) = in_folder - {None}


def _is_replaced(now: Books, row: ArrivalRow) -> bool:
    """Return whether a later object under the same key was released."""
    return any(
        (other.pipeline, other.key) == (row.pipeline, row.key)
        and other.last_modified > row.last_modified
        and other.disposition is not None
        for other in now.arrivals
    )


def older_over_newer(facts: Facts, s3: MemoryS3, before: Books, now: Books) -> Iterator[Violation]:
    """12: neither the data store nor a destination goes back to older content."""
    for resource, variant in facts.read_store().items():
        yield from _go_on(facts, facts.stored, resource, variant, "the data store")
    shown: dict[str, int] = {}
    if not _new_in_queue(before, now):
        return
    for one in sorted((one for one in now.queued if one.destination), key=lambda one: one.number):
        for resource, digest in contents_of(read_payload(s3, one.payload_uri) or {}).items():
            variant = facts.digests.get(digest, "")
            yield from _go_on(facts, shown, resource, variant, f"revision {one.revision} of a contract")


def _go_on(facts: Facts, shown: dict[str, int], resource: str, variant: str, place: str) -> Iterator[Violation]:
    """Move to the next upload that brought the shown variant; there is none if the place went back."""
    order = sorted(facts.puts, key=lambda one: (one.last_modified, one.number))
    ranks = {one.number: rank for rank, one in enumerate(order)}
    known = shown.get(resource)
    fits = [one for one in facts.puts_of(resource, variant) if known is None or ranks[one.number] >= ranks[known]]
    if fits:
        shown[resource] = fits[0].number
        return
    newer = next(one for one in facts.puts if one.number == known)
    shown[resource] = facts.puts_of(resource, variant)[-1].number if facts.puts_of(resource, variant) else newer.number
    yield Violation(12, f"{place} goes back to {resource} as {variant} after it had that of {newer.key}")


def released_not_queued(facts: Facts, s3: MemoryS3, before: Books, now: Books) -> Iterator[Violation]:
    """13: what is released is queued, in the same transaction."""
    released = [row for row in now.arrivals if row.disposition == "released"]
    if released == [row for row in before.arrivals if row.disposition == "released"] and before.queued == now.queued:
        return
    queued = now.newest_queued()
    named = {key: read_payload(s3, one.payload_uri) or {} for key, one in queued.items()}
    resources = {name for contract in named.values() for name in contents_of(contract)}
    for row in released:
        image = facts.image(row)
        if image is not None and image.sop not in instances_of(named.get(key_of_study(image.study), {})):
            yield Violation(13, f"{facts.describe(row)}, and no contract that names it is queued")
        names = set(variants_of(facts.content(row)))
        if names and not names & resources:  # others of the file may have been set aside
            yield Violation(13, f"{facts.describe(row)}, and no contract that names a resource of it is queued")


def _new_in_queue(before: Books, now: Books) -> list[Queued]:
    if before.queued == now.queued:
        return []
    known = set(before.queued)
    places = {(one.subject_key, one.revision, one.destination) for one in known}
    return [one for one in now.queued if (one.subject_key, one.revision, one.destination) not in places]


def _is_sop(facts: Facts, row: ArrivalRow, sop: str) -> bool:
    image = facts.image(row)
    return image is not None and image.sop == sop


AT_EVERY_POINT: tuple[Callable[[Facts, MemoryS3, Books, Books], Iterator[Violation]], ...] = (
    unreleased_downstream,
    twice,
    incomplete_release,
    older_over_newer,
    released_not_queued,
    released_before_its_waves,
)
