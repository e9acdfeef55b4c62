"""Reconcile a HealthLake data store: the ledger's resources with those that the store has, by id and by content.

A listing by search finds what is missing or foreign; each such difference is confirmed by a read, since a search lags.
The content is read only where a person asks for it, and compared by its digest. Where that differs, the import file
decides: a reference may have been rewritten, and the store may add to a resource. The ledger has no versions of
resources, so they are not compared.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from airlock.clinical.adopt import ALL_TYPES, PAGE, AllResources
from airlock.clinical.fhir_store import FhirStore
from airlock.clinical.manifests import MANIFESTS
from airlock.clinical.read_back import VALIDATION_ISSUE, find_differing
from airlock.clinical.records import BATCHES, file_subject
from airlock.clinical.resources import content_digest
from airlock.clinical.unreviewed import without_tag
from airlock.ledger.columns import FindingKind
from airlock.ledger.comparisons import FOUND
from airlock.pipelines import ClinicalPipeline, Publication
from airlock.records import subject_key
from airlock.stages.reconcile_comparer import CONTRACTS, Comparer, frame_found, join_found
from airlock.stages.reconcile_evidence import rests_on
from airlock.stages.reconcile_scope import EVIDENCE, SOURCE, STORE, Page
from airlock.storage.s3 import S3Error
from airlock.storage.workspace import DatasetMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.stages.local_list import LocalList
    from airlock.stages.reconcile_scope import Scope
    from airlock.storage.requests import RequestMeter

RESOURCES_PER_PAGE = 1_000
IN_FLIGHT = "a run is importing it"
UNPROVEN = "its import file is gone, and its digest differs"
_BATCH = ("run_key", "batch_id")
_FILE = pl.lit(file_subject("")) + pl.col("arrival_id").fill_null("")
_NAME = pl.concat_str("resource_type", pl.lit("/"), "resource_id")


class ResourceComparer(Comparer[pl.DataFrame, ClinicalPipeline | Publication, FhirStore]):
    """The `Comparer` of pipelines with FHIR resources; its units are rows of `STORED_RESOURCES`."""

    unit = "resources"
    compared_by = "subject"
    unknown = "The ledger knows no resource of this patient. Write it as Patient/<id>."
    listed_as = pl.Schema({"object_id": pl.String})
    confirmed_by = "ReadResource"
    store_kinds: ClassVar[tuple[FindingKind, ...]] = (FindingKind.MISSING_IN_STORE, FindingKind.FOREIGN_IN_STORE)
    manifests = MANIFESTS
    types: ClassVar[tuple[str, ...]] = ALL_TYPES  # that are listed

    @property
    def folder(self) -> str:
        """The folder of a run's workspace that has the datasets about resources."""
        return self.pipeline.resources_folder

    @cached_property
    def _looked_up(self) -> set[str]:
        """The arrivals whose object was compared."""
        return set()

    @cached_property
    def _differing_arrivals(self) -> set[str]:
        """Those of the arrivals whose object differs."""
        return set()

    def check(self) -> None:
        """Refuse a data store that may not be searched; the endpoint was asked for before."""
        self.store.count("Patient")

    def count_missing(self, comparison: int) -> int:
        """Return how many resources that the comparison missed still count as stored."""
        return self.ledger.count_missing_resources(comparison)

    def forget_missing(self, comparison: int) -> int:
        """Let the resources that the comparison missed no longer count as stored; return their number."""
        return self.ledger.forget_missing_resources(comparison)

    def _list_requests(self, scope: Scope) -> Iterator[tuple[str, float, RequestMeter, float | None]]:
        number = self.ledger.count_resources(self.datastore_id)
        objects = self.ledger.count_store_contents(self.datastore_id, self.pipeline.name)["objects"]
        share = 1.0 if scope.is_whole else min(1.0, (scope.sample or 1) / max(1, number))
        prices = self.pipeline.plan.prices
        query = getattr(prices, "query_per_1000", None)  # a ccda pipeline has no such price
        if STORE in scope.parts and scope.is_whole:
            yield "SearchWithPost", len(self.types) + number // PAGE, self.store.meter, query
        if STORE in scope.parts and (scope.content or not scope.is_whole):
            yield "ReadResource", number * share, self.store.meter, query
        if SOURCE in scope.parts:
            yield "S3 HEAD of the objects", objects * share, self.archive.meter, prices.get_per_1000

    def _list_store(self, position: dict[str, Any] | None) -> Iterator[tuple[pl.DataFrame, Any]]:
        return ((page.rows, page.position) for page in AllResources(self.store, types=self.types).pages(position))

    def _read_subject(self, subject: str) -> pl.DataFrame:
        return self.ledger.resources_of_patient(self.datastore_id, subject)

    def _read_sample(self, key: str, limit: int) -> tuple[pl.DataFrame, list[str]]:
        rows = self.ledger.sampled_resources(self.datastore_id, key, min(limit, RESOURCES_PER_PAGE))
        return rows, rows["content_digest"].to_list()

    def _read_next(self, after: Sequence[str] | None) -> tuple[pl.DataFrame, Sequence[str] | None]:
        name, kind = after or ("", "")
        rows = self.ledger.stored_resources(self.datastore_id, (name, kind), RESOURCES_PER_PAGE)
        return rows, None if rows.is_empty() else (rows["resource_id"][-1], rows["resource_type"][-1])

    def _compare(self, units: pl.DataFrame, listed: LocalList, scope: Scope, position: Any) -> Page:
        patient = pl.coalesce("patient", _FILE)
        rows = units.with_columns(name=_NAME, study_key=patient.map_elements(self._find_key, pl.String))
        own = rows.filter(pl.col("pipeline") == self.pipeline.name)  # another's archive may be out of its reach
        counts = {"resources": rows.height}
        keys = rows["study_key"].unique().to_list() if scope.subject is not None else []
        found, left_out, undecided, young = [FOUND.to_frame()], dict[str, str](), set[str](), tuple[str, ...]()
        if STORE in scope.parts:
            asked = rows
            if scope.is_whole and not scope.content:
                asked = rows.join(listed.find(rows["name"]), left_on="name", right_on="object_id", how="anti")
            differing, left_out, undecided = self._compare_with_store(asked)
            found.append(differing)
        if SOURCE in scope.parts:
            source = self._compare_source(self._find_objects(own))
            self._differing_arrivals.update(source.found["subject"])
            found.append(source.found)
            counts |= source.counts
            young = source.young
        if EVIDENCE in scope.parts:
            found.append(self._find_lacking_files(keys, own))
        whole = join_found(*found)
        is_other = pl.col("name").is_in(whole["subject"].implode()) | pl.col("arrival_id").is_in(
            self._differing_arrivals
        )
        differs = is_other.fill_null(value=False) | rests_on(whole)
        counts["differing"] = rows.filter(differs, ~pl.col("name").is_in(undecided)).height
        counts["undecided"] = len(undecided)
        return Page(position, counts, whole, tuple(set(keys) - set(left_out)), left_out, young)

    def _find_key(self, subject: str) -> str:
        return subject_key(self.datastore_id, subject)

    def _compare_with_store(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str], set[str]]:
        """Read resources; return the differences, the patients left out, with reasons, and the undecided resources."""
        held = self.store.read_all(rows["name"])
        gone = [name for name, one in held.items() if one is None]
        digests = {name: digest_of(one) for name, one in held.items() if one is not None}
        there = rows.filter(~pl.col("name").is_in(gone))
        other = there.filter(
            pl.col("content_digest") != pl.col("name").replace_strict(digests, default=None, return_dtype=pl.String)
        )
        differing, unproven = self._find_differing(other)
        missing = rows.filter(pl.col("name").is_in(gone)).with_columns(
            kind=pl.lit(FindingKind.MISSING_IN_STORE.value), expected=pl.lit("stored"), found=pl.lit(None, pl.String)
        )
        changed = other.filter(pl.col("name").is_in(list(differing))).with_columns(
            kind=pl.lit(FindingKind.OTHER_CONTENT.value),
            expected=pl.format("digest {}", pl.col("content_digest").str.head(16)),
            found=pl.format(
                "digest {}", pl.col("name").replace_strict(digests, default=None, return_dtype=pl.String).str.head(16)
            ),
        )
        found = pl.concat([missing, changed], how="diagonal")
        stable = self._find_stable(found)
        keys = dict(rows.select("name", "study_key").iter_rows())
        moving = set(found["name"]) - stable
        left_out = {keys[name]: IN_FLIGHT for name in moving} | {keys[name]: UNPROVEN for name in unproven}
        kept = found.filter(pl.col("name").is_in(list(stable)))
        return (
            kept.select(
                "kind",
                "study_key",
                "arrival_id",
                "expected",
                "found",
                subject="name",
                image_set_id=pl.lit(None, pl.String),
            ),
            left_out,
            moving | unproven,
        )

    def _find_stable(self, found: pl.DataFrame) -> set[str]:
        """Return the resources that no run has imported since, or is importing."""
        if found.is_empty():
            return set()
        again = self.ledger.find_stored(self.datastore_id, found["name"]).with_columns(name=_NAME)
        same = again.filter(pl.col("claimed_by").is_null()).join(
            found, on=["name", "content_digest", "run_key"], how="semi"
        )
        return set(same["name"])

    def _find_differing(self, rows: pl.DataFrame) -> tuple[set[str], set[str]]:
        """Return the resources that differ from their import file, and those whose import file is gone."""
        differing, unproven = set[str](), set[str]()
        others = rows.filter(pl.col("pipeline") != self.pipeline.name)["name"]
        unproven |= set(others)
        for (run_key, batch_id), some in rows.filter(~pl.col("name").is_in(others.implode())).group_by(*_BATCH):
            try:
                run = self.workspace_of(f"{run_key}/{self.folder}" if self.folder else str(run_key))
                parts = run.parts(f"batches/{batch_id}", BATCHES)
                named = some.select("resource_type", "resource_id", "content_digest")
                places = pl.concat(
                    [BATCHES.to_frame(), *(part.join(named, on=named.columns, how="semi") for part in parts)]
                )
                wrong = find_differing(self.store, self.archive.s3, places, pause=lambda _: None)
            except (DatasetMissingError, S3Error):
                unproven |= set(some["name"])
                continue
            proven = set(places.select(name=_NAME)["name"])
            unproven |= set(some["name"]) - proven
            differing |= set(wrong.select(name=_NAME)["name"])
        return differing, unproven

    def _find_objects(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the objects of released arrivals that were not looked up yet."""
        if len(self._looked_up) > 100 * RESOURCES_PER_PAGE:
            self._looked_up.clear()
        keys = rows.select("arrival_id", "study_key").drop_nulls("arrival_id")
        keys = keys.unique("arrival_id", keep="first", maintain_order=True)
        keys = keys.filter(~pl.col("arrival_id").is_in(list(self._looked_up)))
        self._looked_up |= set(keys["arrival_id"])
        objects = self.ledger.find_objects(keys["arrival_id"])
        return objects.join(keys, on="arrival_id", how="left", maintain_order="left")

    def _find_foreign(self, listed: LocalList, after: str) -> Iterator[tuple[str, pl.DataFrame, dict[str, str]]]:
        while names := listed.values_after(after, RESOURCES_PER_PAGE):
            after = names[-1]
            known = self.ledger.known_objects(self.datastore_id, pl.Series(names, dtype=pl.String))
            held = self.store.read_all(name for name in names if name not in known)
            known = self.ledger.known_objects(self.datastore_id, pl.Series(list(held), dtype=pl.String))
            rows = (
                {
                    "kind": FindingKind.FOREIGN_IN_STORE.value,
                    "subject": name,
                    "found": f"version {one.get('meta', {}).get('versionId', 'unknown')}",
                }
                for name, one in held.items()
                if one is not None and name not in known
            )
            yield after, frame_found(rows), {}

    def _compare_contracts(self, after: str) -> Iterator[Page]:
        while (rows := self.ledger.contract_subjects(self.datastore_id, after, RESOURCES_PER_PAGE)).height:
            after = rows["subject"][-1]
            found = frame_found(self.files.find_lacking_contracts(rows["subject_key"]))
            yield Page({"phase": CONTRACTS, "after": after}, {"contracts": rows.height}, found)

    def _restore(self, lost: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
        held = {name: one for name, one in self.store.read_all(lost["subject"]).items() if one is not None}
        doubtful = self.ledger.find_doubtful(self.datastore_id, pl.Series(list(held), dtype=pl.String))
        there = [name for name, one in held.items() if doubtful.get(name) in {None, digest_of(one)}]
        back = pl.Series("subject", there, pl.String)
        self.ledger.restore_resources(self.datastore_id, back)
        return back, pl.Series([name for name in held if name not in there], dtype=pl.String)


class PublishedComparer(ResourceComparer):
    """The comparison of what an imaging pipeline has published; resources of others are not its matter."""

    store_kinds = (FindingKind.MISSING_IN_STORE,)
    types = ("Endpoint", "ImagingStudy", "Patient", "ServiceRequest")

    def _compare(self, units: pl.DataFrame, listed: LocalList, scope: Scope, position: Any) -> Page:
        return super()._compare(units.filter(pl.col("pipeline") == self.pipeline.name), listed, scope, position)

    def _find_foreign(self, listed: LocalList, after: str) -> Iterator[tuple[str, pl.DataFrame, dict[str, str]]]:  # noqa: ARG002  # of the base
        yield from ()


def digest_of(held: dict[str, Any]) -> str:
    """Return the digest of a stored resource without the extension and the tag of one that may have issues."""
    extensions = held.get("extension")
    if isinstance(extensions, list):
        kept = [one for one in extensions if not (isinstance(one, dict) and one.get("url") == VALIDATION_ISSUE)]
        held = {name: value for name, value in held.items() if name != "extension"} | (
            {"extension": kept} if kept else {}
        )
    return content_digest(without_tag(held))
