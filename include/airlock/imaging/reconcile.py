"""Reconcile a HealthImaging data store: the ledger's instances with its image sets, study by study.

What is compared costs what is asked: one listing of the data store (50 image sets a request) finds what is missing,
foreign, or of another version; each such difference is confirmed before it counts. The content of image sets is read
only where a person asks for it. A study of which a run has a file is left out, since its image sets may change.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging.adopt import PAGE
from airlock.imaging.manifests import MANIFEST
from airlock.imaging.reconcile_content import compare_content
from airlock.imaging.reconcile_evidence import find_lacking_rows
from airlock.imaging.reconcile_pixels import compare_pixels
from airlock.imaging.reconcile_sets import LOCKED, find_candidates, group_sets, judge
from airlock.imaging.reconcile_store import LISTED, ImageSetStore, state_of
from airlock.ledger.columns import FindingKind
from airlock.ledger.comparisons import FOUND
from airlock.ledger.reconciled import STORED
from airlock.pipelines import ImagingPipeline
from airlock.records import Disposition, study_key
from airlock.stages.reconcile_comparer import Comparer, frame_found, join_found
from airlock.stages.reconcile_evidence import rests_on
from airlock.stages.reconcile_scope import EVIDENCE, SOURCE, STORE, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.imaging.reconcile_store import Seen
    from airlock.stages.local_list import LocalList
    from airlock.stages.reconcile_scope import Scope
    from airlock.storage.requests import RequestMeter

STUDIES_PER_PAGE = 100
LISTED_PER_PART = 50_000  # image sets; so much of a listing is lost when it is interrupted
IN_FLIGHT, CHANGING = "a run has files of the study", "its image set is being changed"


class ImageSetComparer(Comparer[list[str], ImagingPipeline, ImageSetStore]):
    """The `Comparer` of imaging pipelines; its units are StudyInstanceUIDs."""

    unit = "studies"
    compared_by = "study_key"
    unknown = "The ledger does not know this study. Give its study_key, or its StudyInstanceUID."
    listed_as = LISTED
    listed_by = "StudyInstanceUID"
    confirmed_by = "GetImageSet"
    store_kinds = (FindingKind.MISSING_IN_STORE, FindingKind.FOREIGN_IN_STORE, FindingKind.OTHER_VERSION)
    content_kinds = (FindingKind.OTHER_INSTANCE_COUNT,)
    manifests = (MANIFEST,)

    def check(self) -> None:
        """Refuse a data store that does not exist or may not be read."""
        self.store.check()

    def count_missing(self, comparison: int) -> int:
        """Return how many instances that the comparison missed still count as stored."""
        return self.ledger.count_missing(comparison)

    def forget_missing(self, comparison: int) -> int:
        """Let the instances that the comparison missed no longer count as stored; return their number."""
        return self.ledger.forget_missing(comparison)

    def _list_requests(self, scope: Scope) -> Iterator[tuple[str, float, RequestMeter, float]]:
        counts = self._count(scope)
        api, s3, prices = self.store.meter, self.archive.meter, self.pipeline.plan.prices
        if STORE in scope.parts:
            searches = math.ceil(counts["series"] / PAGE) + 1 if scope.is_whole else counts["studies"]
            yield "SearchImageSets", searches, api, prices.api_per_1000
        if STORE in scope.parts and scope.content:
            yield "GetImageSetMetadata", counts["series"], api, prices.api_per_1000
        if STORE in scope.parts and scope.pixels:
            yield "S3 GET of the objects in the archive", counts["objects"], s3, prices.get_per_1000
        if SOURCE in scope.parts:
            yield "S3 HEAD of the objects in the archive", counts["objects"], s3, prices.get_per_1000
        if EVIDENCE in scope.parts:
            yield "S3 HEAD of contracts and job outputs", 2 * counts["studies"], s3, prices.get_per_1000

    def _count(self, scope: Scope) -> dict[str, float]:
        """Return the numbers of what is compared, from those of all that the ledger has."""
        counts = self.ledger.count_store_contents(self.datastore_id, self.pipeline.name)
        share = 1.0 if scope.is_whole else min(1.0, (scope.sample or 1) / max(1, counts["studies"]))
        return {name: math.ceil(number * share) for name, number in counts.items()}

    def _notes(self, scope: Scope) -> Iterator[str]:
        yield from super()._notes(scope)
        if STORE in scope.parts and scope.content:
            prices, gib = self.pipeline.plan.prices, self._count(scope)["bytes"] / 1024**3
            moved = gib * (prices.frequent_gib_month - prices.archive_gib_month)
            yield (
                f"GetImageSetMetadata moves an image set back to the tier of frequent access for 30 days: up to "
                f"{moved:,.2f} {prices.currency} for {gib:,.1f} GiB."
            )

    def _list_store(self, position: str | None) -> Iterator[tuple[pl.DataFrame, str]]:
        return self.store.list_all(position, LISTED_PER_PART)

    def _read_subject(self, subject: str) -> list[str]:
        return self.ledger.studies_of_key(self.datastore_id, subject)

    def _read_sample(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        uids = self.ledger.sampled_studies(self.datastore_id, key, min(limit, STUDIES_PER_PAGE))
        return uids, [study_key(uid) for uid in uids]

    def _read_next(self, after: str | None) -> tuple[list[str], str | None]:
        uids = self.ledger.stored_studies(self.datastore_id, after or "", STUDIES_PER_PAGE)
        return uids, uids[-1] if uids else None

    def _compare(self, uids: list[str], listing: LocalList, scope: Scope, position: Any) -> Page:
        """Compare some studies: the data store first, then the ledger again, since runs may have changed both."""
        stored = self.ledger.stored_instances(self.datastore_id, pl.Series(uids, dtype=pl.String))
        keys = {uid: study_key(uid) for uid in uids}
        counts = {"studies": len(uids), "instances": stored.height}
        left_out: dict[str, str] = {}
        young: tuple[str, ...] = ()
        found = [FOUND.to_frame()]
        if STORE in scope.parts:
            listed = listing.find(uids, self.listed_by) if scope.is_whole else self.store.list_studies(uids)
            sets = group_sets(stored)
            counts["image_sets"] = sets.height
            differing, changing = self._compare_sets(sets, stored, listed, listing)
            found.append(differing)
            left_out |= {keys.get(uid, study_key(uid)): CHANGING for uid in changing}
            if scope.content:
                content, pixels = self._compare_content(uids, stored, differing, changing, pixels=scope.pixels)
                found.append(content)
                counts["pixels"] = pixels
        key = pl.col("StudyInstanceUID").replace_strict(keys, return_dtype=pl.String)
        own = self._own(stored).with_columns(study_key=key)
        if SOURCE in scope.parts:
            is_released = pl.col("disposition") == Disposition.RELEASED
            source = self._compare_source(own.filter(is_released, pl.col("bucket").is_not_null()))
            found.append(source.found)
            counts |= source.counts
            young = source.young
        if EVIDENCE in scope.parts:
            lacking = find_lacking_rows(self.ledger, self.datastore_id, keys, stored)
            found += [frame_found(lacking), self._find_lacking_files(list(keys.values()), own)]
        whole, moved = self._leave_out_moving(join_found(*found), stored, keys)
        left_out |= moved
        others = {*whole["study_key"], *own.filter(rests_on(whole))["study_key"]}
        counts["differing"] = len(others - left_out.keys())
        counts["undecided"] = len(left_out.keys() & set(keys.values()))
        compared = tuple(key for key in keys.values() if key not in left_out)
        return Page(position, counts, whole, compared, left_out, young)

    def _compare_sets(
        self, sets: pl.DataFrame, stored: pl.DataFrame, listed: pl.DataFrame, listing: LocalList
    ) -> tuple[pl.DataFrame, set[str]]:
        """Return the confirmed differences of the studies' image sets, and the studies that are changing."""
        unlisted = sets.filter(~pl.col("image_set_id").is_in(listed["image_set_id"].implode()))["image_set_id"]
        elsewhere = listing.find(unlisted)  # a person has moved it to another study
        candidates = find_candidates(sets, pl.concat([listed, elsewhere]))
        foreign = candidates.filter(pl.col("StudyInstanceUID").is_null())["image_set_id"]
        expected = self.ledger.find_expected_sets(self.datastore_id, foreign)
        candidates = candidates.filter(~pl.col("image_set_id").is_in(list(expected)))
        seen = self.store.look_up(candidates["image_set_id"])
        changing = {
            row["StudyInstanceUID"] or row["study_listed"]
            for row in candidates.iter_rows(named=True)
            if (one := seen[row["image_set_id"]]) is not None and one.state == LOCKED
        }
        rows = [finding for row in candidates.iter_rows(named=True) for finding in judge(row, seen, stored)]
        moved = self._find_moved(rows, seen)
        return frame_found(row for row in rows if row["subject"] not in moved), changing

    def _find_moved(self, rows: list[dict[str, Any]], seen: dict[str, Seen | None]) -> set[str]:
        """Return foreign image sets that hold an instance of the ledger: a person has moved them from another study.

        They are findings of that study, and not foreign, or somebody might delete them. A move makes another version.
        """
        foreign = [row["subject"] for row in rows if row["kind"] == FindingKind.FOREIGN_IN_STORE.value]
        changed = pl.Series([name for name in foreign if (one := seen[name]) and one.version > 1], dtype=pl.String)
        return self.ledger.find_image_sets(self.datastore_id, changed) if len(changed) else set()

    def _compare_content(
        self, uids: list[str], stored: pl.DataFrame, differing: pl.DataFrame, changing: set[str], *, pixels: bool
    ) -> tuple[pl.DataFrame, int]:
        """Read the image sets that are there; compare their instances, their content and, if asked, their pixels."""
        gone = differing.filter(pl.col("kind") == FindingKind.MISSING_IN_STORE)["image_set_id"]
        there = stored.filter(
            ~pl.col("image_set_id").is_in(gone.implode()), ~pl.col("StudyInstanceUID").is_in(list(changing))
        )
        contracts = self.ledger.contracts(self.datastore_id, pl.Series(uids, dtype=pl.String))
        documents = self.store.read(there["image_set_id"].drop_nulls())
        found = compare_content(there, documents, contracts)
        if not pixels:
            return found, 0
        other, compared = compare_pixels(self.archive, self._own(there), documents)
        return pl.concat([found, other]), compared

    def _own(self, stored: pl.DataFrame) -> pl.DataFrame:
        """Return the instances that the pipeline itself has imported: another's archive may be out of its reach."""
        return stored.filter(pl.col("pipeline") == self.pipeline.name)

    def _leave_out_moving(
        self, found: pl.DataFrame, stored: pl.DataFrame, keys: dict[str, str]
    ) -> tuple[pl.DataFrame, dict[str, str]]:
        """Leave out findings about studies of which a run has files, or the ledger has changed meanwhile."""
        names = found["study_key"].unique()
        uids = pl.Series([uid for uid, key in keys.items() if key in set(names)], dtype=pl.String)
        if uids.is_empty():
            return found, {}
        moving = {uid for uid, _ in self.ledger.studies_in_flight(self.datastore_id, uids, "")}
        again = self.ledger.stored_instances(self.datastore_id, uids)
        before = stored.filter(pl.col("StudyInstanceUID").is_in(uids.implode()))
        facts = [name for name in STORED if name != "disposition"]
        changed = pl.concat([before.select(facts), again.select(facts)])
        moving |= set(changed.filter(~changed.is_duplicated())["StudyInstanceUID"])
        left_out = {keys[uid]: IN_FLIGHT for uid in moving}
        return found.filter(~pl.col("study_key").is_in(list(left_out))), left_out

    def _find_foreign(self, listed: LocalList, after: str) -> Iterator[tuple[str, pl.DataFrame, dict[str, str]]]:
        """Find the image sets of studies of which the ledger has nothing."""
        rest = LISTED.to_frame() if after else self._find_unknown_sets(listed)
        while uids := listed.values_after(after, STUDIES_PER_PAGE * 10, self.listed_by):
            after = uids[-1]
            stored = self.ledger.known_studies_in(self.datastore_id, pl.Series(uids, dtype=pl.String))
            unknown = listed.find((uid for uid in uids if uid not in stored), self.listed_by)
            yield after, *self._confirm_foreign(pl.concat([rest, unknown]), listed)
            rest = LISTED.to_frame()
        if rest.height:
            yield after, *self._confirm_foreign(rest, listed)

    def _find_unknown_sets(self, listed: LocalList) -> pl.DataFrame:
        """Return the image sets of which the service does not say the study, and which the ledger does not know."""
        nameless = listed.find([""], self.listed_by)
        known = self.ledger.find_image_sets(self.datastore_id, nameless["image_set_id"]) if nameless.height else ()
        return nameless.filter(~pl.col("image_set_id").is_in(list(known)))

    def _confirm_foreign(self, rows: pl.DataFrame, listed: LocalList) -> tuple[pl.DataFrame, dict[str, str]]:
        empty = STORED.to_frame()
        found, _ = self._compare_sets(group_sets(empty), empty, rows, listed)
        keys = {uid: study_key(uid) for uid in rows["StudyInstanceUID"].unique()}
        return self._leave_out_moving(found, empty, keys)

    def _restore(self, lost: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
        seen = self.store.look_up(lost["image_set_id"].drop_nulls())
        documents = self.store.read(name for name, one in seen.items() if one is not None and one.state != LOCKED)
        held = {name: name_held(document) for name, document in documents.items()}
        is_back = [row["subject"] in held.get(row["image_set_id"], ()) for row in lost.iter_rows(named=True)]
        back = lost.filter(pl.Series(is_back, dtype=pl.Boolean))
        found = [(one.version, state_of(one)) if (one := seen[name]) else (None, None) for name in back["image_set_id"]]
        facts = pl.DataFrame(found, {"version": pl.Int64, "state": pl.String}, orient="row")
        self.ledger.restore_found(self.datastore_id, back.hstack(facts))
        locked = [name for name, one in seen.items() if one is not None and one.state == LOCKED]
        return back["subject"], lost.filter(pl.col("image_set_id").is_in(locked))["subject"]


def name_held(document: dict[str, Any]) -> set[str]:
    """Return the SOPInstanceUIDs in a metadata document."""
    series = document.get("Study", {}).get("Series", {}).values()
    return {uid for one in series for uid in one.get("Instances", {})}
