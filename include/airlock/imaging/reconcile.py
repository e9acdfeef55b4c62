"""Reconcile a HealthImaging data store: the ledger's instances with its image sets, study by study.

What is compared costs what is asked: one listing of the data store (50 image sets a request) finds what is missing,
foreign, or of another version; each such difference is confirmed before it counts. The content of image sets is read
only where a person asks for it. A study of which a run has a file is left out, since its image sets may change.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging.reconcile_content import compare_content
from airlock.imaging.reconcile_evidence import ContractEvidence
from airlock.imaging.reconcile_pixels import compare_pixels
from airlock.imaging.reconcile_sets import LOCKED, find_candidates, group_sets, judge
from airlock.imaging.reconcile_store import LISTED, PAGE, Listing
from airlock.ledger.columns import FindingKind
from airlock.ledger.comparisons import FOUND
from airlock.ledger.reconciled import STORED
from airlock.records import Disposition, study_key
from airlock.stages.reconcile import EVIDENCE, SOURCE, STORE, Estimate, Expected, Page, ReconcileError
from airlock.stages.reconcile_source import compare_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from airlock.imaging.reconcile_store import ImageSetStore
    from airlock.ledger import Ledger
    from airlock.pipelines import ImagingPipeline
    from airlock.stages.reconcile import Scope
    from airlock.stages.reconcile_meter import Meter
    from airlock.stages.reconcile_source import Archive
    from airlock.storage.workspace import Workspace

STUDIES_PER_PAGE = 100
LISTED_PER_PART = 50_000  # image sets; so much of a listing is lost when it is interrupted
LOSSES_PER_PAGE = 1_000
IN_FLIGHT, CHANGING = "a run has files of the study", "its image set is being changed"
_START = "0" * 16
_LISTING, _STUDIES, _FOREIGN, _LOSSES = "listing", "studies", "foreign", "losses"


class ImageSetComparer:
    """The `Comparer` of imaging pipelines.

    Parameters
    ----------
    ledger, pipeline
        The ledger and the pipeline.
    store, archive
        Its data store, and S3.
    workspace_of
        Returns a folder of the pipeline in the workspace, by its name.
    random_key
        Returns the study key from which a sample is taken.
    """

    def __init__(
        self,
        ledger: Ledger,
        pipeline: ImagingPipeline,
        store: ImageSetStore,
        archive: Archive,
        *,
        workspace_of: Callable[[str], Workspace],
        random_key: Callable[[], str],
    ) -> None:
        self.datastore_id = pipeline.datastore_id
        self.meters: Sequence[Meter] = (store.meter, archive.meter)
        self._ledger = ledger
        self._pipeline = pipeline
        self._store = store
        self._archive = archive
        self._workspace_of = workspace_of
        self._random_key = random_key
        self._evidence = ContractEvidence(ledger, pipeline, archive)

    def check(self) -> None:
        """Refuse a data store that does not exist or may not be read."""
        self._store.check()

    def kinds(self, scope: Scope) -> tuple[FindingKind, ...]:
        """Return the kinds of differences that a comparison of this scope finds."""
        found: list[FindingKind] = []
        if STORE in scope.parts:
            found += [FindingKind.MISSING_IN_STORE, FindingKind.FOREIGN_IN_STORE, FindingKind.OTHER_VERSION]
            found += [FindingKind.OTHER_INSTANCE_COUNT] if scope.content else []
        if SOURCE in scope.parts:
            found.append(FindingKind.VANISHED)
        if SOURCE in scope.parts and (scope.content or STORE not in scope.parts):
            found.append(FindingKind.OTHER_CONTENT)
        if EVIDENCE in scope.parts:
            found.append(FindingKind.NO_EVIDENCE)
        return tuple(found)

    def estimate(self, scope: Scope) -> Estimate:
        """Return the requests of a comparison, from the numbers of studies and series that the ledger has."""
        counts = self._ledger.count_store_contents(self.datastore_id, self._pipeline.name)
        share = 1.0
        if not scope.is_whole:
            share = min(1.0, (scope.sample or 1) / max(1, counts["studies"]))
        studies, sets, objects = (math.ceil(counts[name] * share) for name in ("studies", "series", "objects"))
        api, s3 = self._store.meter.per_second, self._archive.meter.per_second
        prices = self._pipeline.plan.prices
        lines: list[tuple[str, int, float, float]] = []
        if STORE in scope.parts:
            searches = math.ceil(sets / PAGE) + 1 if scope.is_whole else studies
            lines.append(("SearchImageSets", searches, api, prices.api_per_1000))
        if STORE in scope.parts and scope.content:
            lines.append(("GetImageSetMetadata", sets, api, prices.api_per_1000))
        if STORE in scope.parts and scope.pixels:
            lines.append(("S3 GET of the objects in the archive", objects, s3, prices.get_per_1000))
        if SOURCE in scope.parts:
            lines.append(("S3 HEAD of the objects in the archive", objects, s3, prices.get_per_1000))
        if EVIDENCE in scope.parts:
            lines.append(("S3 HEAD of contracts and job outputs", 2 * studies, s3, prices.get_per_1000))
        requests = tuple(Expected(what, number, rate, number / 1000 * price) for what, number, rate, price in lines)
        return Estimate(requests, prices.currency, tuple(self._notes(scope, counts["bytes"] * share)))

    def _notes(self, scope: Scope, size: float) -> Iterator[str]:
        yield "Each difference needs one more request (GetImageSet), which confirms it."
        if STORE in scope.parts and scope.content:
            prices = self._pipeline.plan.prices
            moved = size / 1024**3 * (prices.frequent_gib_month - prices.archive_gib_month)
            yield (
                f"GetImageSetMetadata moves an image set back to the tier of frequent access for 30 days: up to "
                f"{moved:,.2f} {prices.currency} for {size / 1024**3:,.1f} GiB."
            )

    def count_missing(self, comparison: int) -> int:
        """Return how many instances that the comparison missed still count as stored."""
        return self._ledger.count_missing(comparison)

    def forget_missing(self, comparison: int) -> int:
        """Let the instances that the comparison missed no longer count as stored; return their number."""
        return self._ledger.forget_missing(comparison)

    def pages(self, comparison: int, scope: Scope, position: Any) -> Iterator[Page]:
        """Yield the comparison from a position on: the listing, the studies, what is foreign, and earlier losses."""
        position = position or {"phase": _LISTING if scope.is_whole and STORE in scope.parts else _STUDIES}
        with Listing() as listing:
            if scope.is_whole and STORE in scope.parts and position["phase"] in {_LISTING, _STUDIES, _FOREIGN}:
                yield from self._list(comparison, listing, position)
            if position["phase"] in {_LISTING, _STUDIES}:
                yield from self._compare_studies(scope, listing, position)
            if scope.is_whole and STORE in scope.parts and position["phase"] in {_LISTING, _STUDIES, _FOREIGN}:
                yield from self._find_foreign(listing, position)
        if STORE in scope.parts and scope.sample is None:
            yield from self._look_for_losses(comparison, scope)

    def _list(self, comparison: int, listing: Listing, position: dict[str, Any]) -> Iterator[Page]:
        """List the data store into parts in the workspace, and add all parts to the listing."""
        workspace, parts = self._workspace_of(f"reconcile/{comparison}"), int(position.get("parts", 0))
        since: datetime | None = None
        for number in range(parts):
            rows = workspace.read(f"listed/{number:05}", LISTED)
            listing.add(rows)
            since = rows["created_at"].max()  # type: ignore[assignment]  # of a column of times
        if position["phase"] != _LISTING:
            return
        found = (_leave_out_listed(rows, listing) for rows in self._store.list_all(since))
        for rows in _group(found, LISTED_PER_PART):
            listing.add(rows)
            workspace.write(f"listed/{parts:05}", LISTED, rows)
            parts += 1
            yield Page({"phase": _LISTING, "parts": parts}, {"listed": rows.height})
        position["parts"] = parts

    def _compare_studies(self, scope: Scope, listing: Listing, position: dict[str, Any]) -> Iterator[Page]:
        parts = {"parts": position["parts"]} if "parts" in position else {}
        for uids, where in self._choose_studies(scope, position):
            listed = LISTED.to_frame()
            if STORE in scope.parts:
                listed = listing.find_studies(uids) if scope.is_whole else self._store.list_studies(uids)
            yield self._compare(uids, listed, listing, scope, {"phase": _STUDIES, **where, **parts})

    def _choose_studies(self, scope: Scope, position: dict[str, Any]) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """Yield the studies of each page with the position after it."""
        if scope.subject is not None:
            uids = self._ledger.studies_of_key(self.datastore_id, scope.subject)
            if not uids:
                raise ReconcileError(
                    "The ledger does not know this study. Give its study_key, or its StudyInstanceUID."
                )
            if "after" not in position:
                yield uids, {"after": uids[-1]}
            return
        if scope.sample is not None:
            yield from self._choose_sample(scope.sample, position)
            return
        after = position.get("after", "")
        while uids := self._ledger.stored_studies(self.datastore_id, after, STUDIES_PER_PAGE):
            after = uids[-1]
            yield uids, {"after": after}

    def _choose_sample(self, size: int, position: dict[str, Any]) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """Yield studies in the order of their keys from a random one on; after the last key the first follows."""
        start = position.get("start") or self._random_key()
        key, left, is_wrapped = position.get("key", start), position.get("left", size), position.get("wrapped", False)
        while left > 0:
            uids = self._ledger.sampled_studies(self.datastore_id, key, min(left, STUDIES_PER_PAGE))
            if is_wrapped:
                uids = [uid for uid in uids if study_key(uid) < start]
            if not uids:
                if is_wrapped or start == _START:
                    return
                key, is_wrapped = _START, True
                continue
            left -= len(uids)
            key = f"{study_key(uids[-1])}+"  # the next key is greater
            yield uids, {"start": start, "key": key, "left": left, "wrapped": is_wrapped}

    def _compare(self, uids: list[str], listed: pl.DataFrame, listing: Listing, scope: Scope, position: Any) -> Page:
        """Compare some studies: the data store first, then the ledger again, since runs may have changed both."""
        stored = self._ledger.stored_instances(self.datastore_id, pl.Series(uids, dtype=pl.String))
        keys = {uid: study_key(uid) for uid in uids}
        counts = {"studies": len(uids), "instances": stored.height}
        left_out: dict[str, str] = {}
        found = [FOUND.to_frame()]
        if STORE in scope.parts:
            sets = group_sets(stored)
            counts["image_sets"] = sets.height
            differing, changing = self._compare_sets(sets, stored, listed, listing)
            found.append(differing)
            left_out |= {keys.get(uid, study_key(uid)): CHANGING for uid in changing}
            if scope.content:
                content, pixels = self._compare_content(uids, stored, differing, changing, pixels=scope.pixels)
                found.append(content)
                counts["pixels"] = pixels
        if SOURCE in scope.parts:
            objects = self._own(stored).filter(pl.col("disposition") == Disposition.RELEASED)
            rows = objects.with_columns(
                study_key=pl.col("StudyInstanceUID").replace_strict(keys, return_dtype=pl.String)
            )
            differing, young = compare_objects(
                self._ledger, self._archive, rows, young_hours=young_hours(self._pipeline)
            )
            found.append(differing)
            counts |= {"objects": objects.height, "young": young}
        if EVIDENCE in scope.parts:
            found.append(self._evidence.compare(uids, keys, stored))
        whole = pl.concat([_complete(one) for one in found])
        whole, moved = self._leave_out_moving(whole, stored, keys)
        left_out |= moved
        counts["differing"] = whole["study_key"].n_unique()
        compared = tuple(key for key in keys.values() if key not in left_out)
        return Page(position, counts, whole, compared, left_out)

    def _compare_sets(
        self, sets: pl.DataFrame, stored: pl.DataFrame, listed: pl.DataFrame, listing: Listing
    ) -> tuple[pl.DataFrame, set[str]]:
        """Return the confirmed differences of the studies' image sets, and the studies that are changing."""
        unlisted = sets.filter(~pl.col("image_set_id").is_in(listed["image_set_id"].implode()))["image_set_id"]
        elsewhere = listing.find_sets(unlisted.to_list())  # a person has moved it to another study
        candidates = find_candidates(sets, pl.concat([listed, elsewhere]))
        foreign = candidates.filter(pl.col("StudyInstanceUID").is_null())["image_set_id"]
        expected = self._ledger.find_expected_sets(self.datastore_id, foreign)
        candidates = candidates.filter(~pl.col("image_set_id").is_in(list(expected)))
        seen = self._store.look_up(candidates["image_set_id"])
        changing = {
            row["StudyInstanceUID"] or row["study_listed"]
            for row in candidates.iter_rows(named=True)
            if (one := seen[row["image_set_id"]]) is not None and one.state == LOCKED
        }
        rows = [finding for row in candidates.iter_rows(named=True) for finding in judge(row, seen, stored)]
        return pl.DataFrame(rows, FOUND, orient="row"), changing

    def _compare_content(
        self, uids: list[str], stored: pl.DataFrame, differing: pl.DataFrame, changing: set[str], *, pixels: bool
    ) -> tuple[pl.DataFrame, int]:
        """Read the image sets that are there; compare their instances, their content and, if asked, their pixels."""
        gone = differing.filter(pl.col("kind") == FindingKind.MISSING_IN_STORE)["image_set_id"]
        there = stored.filter(
            ~pl.col("image_set_id").is_in(gone.implode()), ~pl.col("StudyInstanceUID").is_in(list(changing))
        )
        contracts = self._ledger.contracts(self.datastore_id, pl.Series(uids, dtype=pl.String))
        documents = self._store.read(there["image_set_id"].drop_nulls())
        found = compare_content(there, documents, contracts)
        if not pixels:
            return found, 0
        other, compared = compare_pixels(self._archive, self._own(there), documents)
        return pl.concat([found, other]), compared

    def _own(self, stored: pl.DataFrame) -> pl.DataFrame:
        """Return the instances that the pipeline itself has imported: another's archive may be out of its reach."""
        return stored.filter(pl.col("bucket").is_not_null(), pl.col("pipeline") == self._pipeline.name)

    def _leave_out_moving(
        self, found: pl.DataFrame, stored: pl.DataFrame, keys: dict[str, str]
    ) -> tuple[pl.DataFrame, dict[str, str]]:
        """Leave out findings about studies of which a run has files, or the ledger has changed meanwhile."""
        names = found["study_key"].unique()
        uids = pl.Series([uid for uid, key in keys.items() if key in set(names)], dtype=pl.String)
        if uids.is_empty():
            return found, {}
        moving = {uid for uid, _ in self._ledger.studies_in_flight(self.datastore_id, uids, "")}
        again = self._ledger.stored_instances(self.datastore_id, uids)
        before = stored.filter(pl.col("StudyInstanceUID").is_in(uids.implode()))
        facts = [name for name in STORED if name != "disposition"]
        changed = pl.concat([before.select(facts), again.select(facts)])
        moving |= set(changed.filter(~changed.is_duplicated())["StudyInstanceUID"])
        left_out = {keys[uid]: IN_FLIGHT for uid in moving}
        return found.filter(~pl.col("study_key").is_in(list(left_out))), left_out

    def _find_foreign(self, listing: Listing, position: dict[str, Any]) -> Iterator[Page]:
        """Find the image sets of studies of which the ledger has nothing."""
        after = position["after"] if position["phase"] == _FOREIGN else ""
        parts = {"parts": position.get("parts", 0)}
        nameless = listing.find_studies([""]) if not after else LISTED.to_frame()
        known = self._ledger.find_image_sets(self.datastore_id, nameless["image_set_id"]) if nameless.height else set()
        rest = nameless.filter(~pl.col("image_set_id").is_in(list(known)))
        while uids := listing.studies(after, STUDIES_PER_PAGE * 10):
            after = uids[-1]
            stored = self._ledger.known_studies_in(self.datastore_id, pl.Series(uids, dtype=pl.String))
            unknown = listing.find_studies([uid for uid in uids if uid not in stored])
            yield self._confirm_foreign(pl.concat([rest, unknown]), {"phase": _FOREIGN, "after": after, **parts})
            rest = LISTED.to_frame()
        if rest.height:
            yield self._confirm_foreign(rest, {"phase": _FOREIGN, "after": after, **parts})

    def _confirm_foreign(self, listed: pl.DataFrame, position: Any) -> Page:
        empty = STORED.to_frame()
        found, _ = self._compare_sets(group_sets(empty), empty, listed, _NO_LISTING)
        keys = {uid: study_key(uid) for uid in listed["StudyInstanceUID"].unique()}
        found, left_out = self._leave_out_moving(found, empty, keys)
        return Page(position, {"differing": found["study_key"].n_unique()}, found, (), left_out)

    def _look_for_losses(self, comparison: int, scope: Scope) -> Iterator[Page]:
        """Look again for what earlier comparisons missed: a store that was out of reach may have it after all."""
        while True:
            lost = self._ledger.find_open_losses(comparison, LOSSES_PER_PAGE, scope.subject)
            if lost.is_empty():
                return
            yield self._look_again(lost)

    def _look_again(self, lost: pl.DataFrame) -> Page:
        seen = self._store.look_up(lost["image_set_id"].drop_nulls())
        documents = self._store.read(name for name, one in seen.items() if one is not None and one.state != LOCKED)
        held = {name: name_held(document) for name, document in documents.items()}
        is_back = [row["subject"] in held.get(row["image_set_id"], ()) for row in lost.iter_rows(named=True)]
        back = lost.filter(pl.Series(is_back, dtype=pl.Boolean))
        versions = [one.version if (one := seen[name]) else None for name in back["image_set_id"]]
        self._ledger.restore_found(self.datastore_id, back.with_columns(version=pl.Series(versions, dtype=pl.Int64)))
        gone = lost.filter(~pl.Series(is_back, dtype=pl.Boolean)).with_columns(
            kind=pl.lit(FindingKind.MISSING_IN_STORE.value), found=pl.lit(None, pl.String)
        )
        counts = {"found_again": back.height}
        return Page({"phase": _LOSSES}, counts, gone.select(FOUND.names()), found_again=tuple(back["subject"]))


class _NoListing:
    """A listing in which nothing is found by its id."""

    def find_sets(self, image_sets: Sequence[str]) -> pl.DataFrame:  # noqa: ARG002  # as `Listing`
        return LISTED.to_frame()


_NO_LISTING: Any = _NoListing()


def young_hours(pipeline: ImagingPipeline) -> float:
    """Return for how long a replaced object is left to the next runs: two days, or the lookback if that is longer."""
    return max(48.0, pipeline.source.lookback_hours)


def _leave_out_listed(rows: pl.DataFrame, listing: Listing) -> pl.DataFrame:
    """Return the image sets that were not listed before an interruption."""
    before = listing.find_sets(rows["image_set_id"].to_list())["image_set_id"]
    return rows.filter(~pl.col("image_set_id").is_in(before.implode()))


def _complete(found: pl.DataFrame) -> pl.DataFrame:
    return found.select(FOUND.names()).cast(FOUND)


def _group(frames: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """Yield frames together, so many rows at a time."""
    pending, number = [LISTED.to_frame()], 0
    for frame in frames:
        pending.append(frame)
        number += frame.height
        if number >= rows:
            yield pl.concat(pending)
            pending, number = [LISTED.to_frame()], 0
    if number:
        yield pl.concat(pending)


def name_held(document: dict[str, Any]) -> set[str]:
    """Return the SOPInstanceUIDs in a metadata document."""
    series = document.get("Study", {}).get("Series", {}).values()
    return {uid for one in series for uid in one.get("Instances", {})}
