"""Reconcile a HealthLake data store: the ledger's resources with those that the store has, by id and by content.

A listing by search finds what is missing or foreign; each such difference is confirmed by a read, since a search lags.
The content is read only where a person asks for it, and compared by its digest. Where that differs, the import file
decides: a reference may have been rewritten, and the store may add to a resource. The ledger has no versions of
resources, so they are not compared.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.adopt import ALL_TYPES, AllResources
from airlock.clinical.manifests import MANIFESTS
from airlock.clinical.read_back import VALIDATION_ISSUE, find_differing
from airlock.clinical.reconcile_store import ListedResources
from airlock.clinical.records import BATCHES, file_subject, subject_key
from airlock.clinical.resources import content_digest
from airlock.ledger import FOREIGN
from airlock.ledger.columns import FindingKind
from airlock.ledger.comparisons import FOUND
from airlock.stages.reconcile import EVIDENCE, SOURCE, STORE, Estimate, Expected, Page, ReconcileError
from airlock.stages.reconcile_evidence import EvidenceFiles
from airlock.stages.reconcile_source import compare_objects
from airlock.storage.s3 import S3Error
from airlock.storage.workspace import DatasetMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airlock.clinical.reconcile_store import ResourceStore
    from airlock.ledger import Ledger
    from airlock.pipelines import CcdaPipeline, ClinicalPipeline
    from airlock.stages.reconcile import Scope
    from airlock.stages.reconcile_meter import Meter
    from airlock.stages.reconcile_source import Archive
    from airlock.storage.workspace import Workspace

RESOURCES_PER_PAGE = 1_000
SEARCH_PAGE = 100  # resources in an answer of a search
YOUNG_HOURS = 48.0
IN_FLIGHT = "a run is importing it"
UNPROVEN = "its import file is gone, and its digest differs"
_LISTING, _RESOURCES, _FOREIGN, _CONTRACTS, _LOSSES = "listing", "resources", "foreign", "contracts", "losses"
_ORDER = (_LISTING, _RESOURCES, _FOREIGN, _CONTRACTS, _LOSSES)
_BATCH = ("run_key", "batch_id")
_FILE = pl.lit(file_subject("")) + pl.col("arrival_id").fill_null("")
_NAME = pl.concat_str("resource_type", pl.lit("/"), "resource_id")


class ResourceComparer:
    """The `Comparer` of pipelines with FHIR resources.

    Parameters
    ----------
    ledger, pipeline
        The ledger and the pipeline.
    store, archive
        Its data store, and S3.
    workspace_of
        Returns a folder of the pipeline in the workspace, by its name: of a comparison, or of a run.
    random_key
        Returns the digest from which a sample is taken.
    folder
        The folder of a run's workspace that has the datasets about resources.
    """

    def __init__(
        self,
        ledger: Ledger,
        pipeline: ClinicalPipeline | CcdaPipeline,
        store: ResourceStore,
        archive: Archive,
        *,
        workspace_of: Callable[[str], Workspace],
        random_key: Callable[[], str],
        folder: str = "",
    ) -> None:
        self.datastore_id = pipeline.datastore_id
        self.meters: Sequence[Meter] = (store.meter, archive.meter)
        self._ledger = ledger
        self._pipeline = pipeline
        self._store = store
        self._archive = archive
        self._workspace_of = workspace_of
        self._random_key = random_key
        self._folder = folder
        self._files = EvidenceFiles(
            ledger, archive, pipeline, datastore_id=self.datastore_id, manifests=MANIFESTS, folder=folder
        )
        self._looked_up: set[str] = set()  # arrivals whose object was compared

    def check(self) -> None:
        """Refuse a data store that may not be searched; the endpoint was asked for before."""
        self._store.count("Patient")

    def kinds(self, scope: Scope) -> tuple[FindingKind, ...]:
        """Return the kinds of differences that a comparison of this scope finds."""
        found: list[FindingKind] = []
        if STORE in scope.parts:
            found += [FindingKind.MISSING_IN_STORE, FindingKind.FOREIGN_IN_STORE]
        if SOURCE in scope.parts:
            found.append(FindingKind.VANISHED)
        if SOURCE in scope.parts and (scope.content or STORE not in scope.parts):
            found.append(FindingKind.OTHER_CONTENT)
        if EVIDENCE in scope.parts:
            found.append(FindingKind.NO_EVIDENCE)
        return tuple(found)

    def estimate(self, scope: Scope) -> Estimate:
        """Return the requests of a comparison, from the number of resources that the ledger has."""
        number = self._ledger.count_resources(self.datastore_id)
        objects = self._ledger.count_store_contents(self.datastore_id, self._pipeline.name)["objects"]
        share = 1.0 if scope.is_whole else min(1.0, (scope.sample or 1) / max(1, number))
        prices = self._pipeline.plan.prices
        query = getattr(prices, "query_per_1000", None)  # a ccda pipeline has no such price
        rate, s3 = self._store.meter.per_second, self._archive.meter.per_second
        lines: list[tuple[str, int, float, float | None]] = []
        if STORE in scope.parts and scope.is_whole:
            lines.append(("SearchWithGet", len(ALL_TYPES) + number // SEARCH_PAGE, rate, query))
        if STORE in scope.parts and (scope.content or not scope.is_whole):
            lines.append(("ReadResource", math.ceil(number * share), rate, query))
        if SOURCE in scope.parts:
            lines.append(("S3 HEAD of the objects", math.ceil(objects * share), s3, prices.get_per_1000))
        requests = tuple(
            Expected(what, count, per_second, None if price is None else count / 1000 * price)
            for what, count, per_second, price in lines
        )
        notes = ("Each difference needs one more request (ReadResource), which confirms it.",)
        return Estimate(requests, prices.currency, notes)

    def count_missing(self, comparison: int) -> int:
        """Return how many resources that the comparison missed still count as stored."""
        return self._ledger.count_missing_resources(comparison)

    def forget_missing(self, comparison: int) -> int:
        """Let the resources that the comparison missed no longer count as stored; return their number."""
        return self._ledger.forget_missing_resources(comparison)

    def pages(self, comparison: int, scope: Scope, position: Any) -> Iterator[Page]:
        """Yield the comparison from a position on: listing, resources, what is foreign, contracts, earlier losses."""
        lists = scope.is_whole and STORE in scope.parts
        position = position or {"phase": _LISTING if lists else _RESOURCES}
        left = _ORDER[_ORDER.index(position["phase"]) :]
        with ListedResources() as listed:
            if lists and set(left) & {_LISTING, _RESOURCES, _FOREIGN}:
                yield from self._list(comparison, listed, position)
            if _RESOURCES in left:
                yield from self._compare_resources(scope, listed, position)
            if lists and _FOREIGN in left:
                yield from self._find_foreign(listed, position)
        if scope.is_whole and EVIDENCE in scope.parts and _CONTRACTS in left:
            yield from self._compare_contracts(position)
        if STORE in scope.parts and scope.sample is None:
            yield from self._look_for_losses(comparison, scope)

    def _list(self, comparison: int, listed: ListedResources, position: dict[str, Any]) -> Iterator[Page]:
        workspace, parts = self._workspace_of(f"reconcile/{comparison}"), int(position.get("parts", 0))
        for number in range(parts):
            listed.add(workspace.read(f"listed/{number:05}", FOREIGN)["object_id"])
        if position["phase"] != _LISTING:
            return
        for page in AllResources(self._store).pages(position.get("at")):
            listed.add(page.rows["object_id"])
            workspace.write(f"listed/{parts:05}", FOREIGN, page.rows)
            parts += 1
            yield Page({"phase": _LISTING, "parts": parts, "at": page.position}, {"listed": page.rows.height})
        position["parts"] = parts

    def _compare_resources(self, scope: Scope, listed: ListedResources, position: dict[str, Any]) -> Iterator[Page]:
        parts = {"parts": position["parts"]} if "parts" in position else {}
        for rows, where in self._choose(scope, position):
            yield self._compare(rows, listed, scope, {"phase": _RESOURCES, **where, **parts})

    def _choose(self, scope: Scope, position: dict[str, Any]) -> Iterator[tuple[pl.DataFrame, dict[str, Any]]]:
        """Yield the resources of each page with the position after it."""
        if scope.subject is not None:
            rows = self._ledger.resources_of_patient(self.datastore_id, scope.subject)
            if rows.is_empty():
                raise ReconcileError("The ledger knows no resource of this patient. Write it as Patient/<id>.")
            if "after" not in position:
                yield rows, {"after": ["", ""]}
            return
        if scope.sample is not None:
            yield from self._choose_sample(scope.sample, position)
            return
        name, kind = position.get("after", ("", ""))
        while (rows := self._ledger.stored_resources(self.datastore_id, (name, kind), RESOURCES_PER_PAGE)).height:
            name, kind = rows["resource_id"][-1], rows["resource_type"][-1]
            yield rows, {"after": [name, kind]}

    def _choose_sample(self, size: int, position: dict[str, Any]) -> Iterator[tuple[pl.DataFrame, dict[str, Any]]]:
        start = position.get("start") or self._random_key()
        key, left, is_wrapped = position.get("key", start), position.get("left", size), position.get("wrapped", False)
        while left > 0:
            rows = self._ledger.sampled_resources(self.datastore_id, key, min(left, RESOURCES_PER_PAGE))
            if is_wrapped:
                rows = rows.filter(pl.col("content_digest") < start)
            if rows.is_empty():
                if is_wrapped:
                    return
                key, is_wrapped = "", True
                continue
            left -= rows.height
            key = f"{rows['content_digest'][-1]}+"  # the next digest is greater
            yield rows, {"start": start, "key": key, "left": left, "wrapped": is_wrapped}

    def _compare(self, rows: pl.DataFrame, listed: ListedResources, scope: Scope, position: Any) -> Page:
        rows = rows.with_columns(name=_NAME, subject=pl.coalesce("patient", _FILE))
        rows = rows.with_columns(study_key=pl.col("subject").map_elements(self._key, pl.String)).drop("subject")
        own = rows.filter(pl.col("pipeline") == self._pipeline.name)  # another's archive may be out of its reach
        counts = {"resources": rows.height}
        found, left_out = [FOUND.to_frame()], dict[str, str]()
        if STORE in scope.parts:
            asked = rows
            if scope.is_whole and not scope.content:
                asked = rows.filter(~pl.col("name").is_in(list(listed.find(rows["name"]))))
            differing, left_out = self._compare_with_store(asked)
            found.append(differing)
        if SOURCE in scope.parts:
            differing, objects, young = self._compare_source(own)
            found.append(differing)
            counts |= {"objects": objects, "young": young}
        if EVIDENCE in scope.parts:
            lacking = list(self._files.find_lacking_outputs(own))
            keys = rows["study_key"].unique() if scope.subject is not None else pl.Series([], dtype=pl.String)
            lacking += self._files.find_lacking_contracts(keys)
            found.append(pl.DataFrame(lacking, FOUND, orient="row"))
        whole = pl.concat([one.select(FOUND.names()).cast(FOUND) for one in found])
        counts["differing"] = whole["subject"].n_unique()
        compared = tuple(rows["study_key"].drop_nulls().unique()) if scope.subject is not None else ()
        return Page(position, counts, whole, tuple(set(compared) - set(left_out)), left_out)

    def _key(self, patient: str) -> str:
        return subject_key(self.datastore_id, patient)

    def _compare_with_store(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
        """Read resources; return the differences, and the patients that had to be left out with the reasons."""
        held = self._store.read_all(rows["name"])
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
        return kept.select(
            "kind", "study_key", "arrival_id", "expected", "found", subject="name", image_set_id=pl.lit(None, pl.String)
        ), left_out

    def _find_stable(self, found: pl.DataFrame) -> set[str]:
        """Return the resources that no run has imported since, or is importing."""
        if found.is_empty():
            return set()
        again = self._ledger.find_stored(self.datastore_id, found["name"]).with_columns(name=_NAME)
        same = again.filter(pl.col("claimed_by").is_null()).join(
            found, on=["name", "content_digest", "run_key"], how="semi"
        )
        return set(same["name"])

    def _find_differing(self, rows: pl.DataFrame) -> tuple[set[str], set[str]]:
        """Return the resources that differ from their import file, and those whose import file is gone."""
        differing, unproven = set[str](), set[str]()
        others = rows.filter(pl.col("pipeline") != self._pipeline.name)["name"]
        unproven |= set(others)
        for (run_key, batch_id), some in rows.filter(~pl.col("name").is_in(others.implode())).group_by(*_BATCH):
            try:
                run = self._workspace_of(f"{run_key}/{self._folder}" if self._folder else str(run_key))
                parts = run.parts(f"batches/{batch_id}", BATCHES)
                named = some.select("resource_type", "resource_id", "content_digest")
                places = pl.concat(
                    [BATCHES.to_frame(), *(part.join(named, on=named.columns, how="semi") for part in parts)]
                )
                wrong = find_differing(self._store, self._archive.s3, places, pause=lambda _: None)
            except (DatasetMissingError, S3Error):
                unproven |= set(some["name"])
                continue
            proven = set(places.select(name=_NAME)["name"])
            unproven |= set(some["name"]) - proven
            differing |= set(wrong.select(name=_NAME)["name"])
        return differing, unproven

    def _compare_source(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, int, int]:
        if len(self._looked_up) > 100 * RESOURCES_PER_PAGE:
            self._looked_up.clear()
        ids = rows["arrival_id"].drop_nulls().unique()
        ids = ids.filter(~ids.is_in(list(self._looked_up)))
        self._looked_up |= set(ids)
        objects = self._ledger.find_objects(ids)
        keys = rows.select("arrival_id", "study_key").unique("arrival_id", keep="first", maintain_order=True)
        known = objects.join(keys, on="arrival_id", how="left", maintain_order="left")
        young = max(YOUNG_HOURS, self._pipeline.source.lookback_hours)
        differing, number = compare_objects(self._ledger, self._archive, known, young)
        return differing, objects.height, number

    def _find_foreign(self, listed: ListedResources, position: dict[str, Any]) -> Iterator[Page]:
        after = position["after"] if position["phase"] == _FOREIGN else ""
        parts = {"parts": position.get("parts", 0)}
        while names := listed.after(after, RESOURCES_PER_PAGE):
            after = names[-1]
            known = self._ledger.known_objects(self.datastore_id, pl.Series(names, dtype=pl.String))
            held = self._store.read_all(name for name in names if name not in known)
            unknown = self._ledger.known_objects(self.datastore_id, pl.Series(list(held), dtype=pl.String))
            rows = [
                {
                    "kind": FindingKind.FOREIGN_IN_STORE.value,
                    "subject": name,
                    "found": f"version {one.get('meta', {}).get('versionId', 'unknown')}",
                }
                for name, one in held.items()
                if one is not None and name not in unknown
            ]
            found = pl.DataFrame(rows, {name: FOUND[name] for name in FOUND}, orient="row")
            yield Page({"phase": _FOREIGN, "after": after, **parts}, {"differing": len(rows)}, found)

    def _compare_contracts(self, position: dict[str, Any]) -> Iterator[Page]:
        after = position["after"] if position["phase"] == _CONTRACTS else ""
        while (rows := self._ledger.contract_subjects(self.datastore_id, after, RESOURCES_PER_PAGE)).height:
            after = rows["subject"][-1]
            lacking = list(self._files.find_lacking_contracts(rows["subject_key"]))
            found = pl.DataFrame(lacking, FOUND, orient="row")
            yield Page({"phase": _CONTRACTS, "after": after}, {"contracts": rows.height}, found)

    def _look_for_losses(self, comparison: int, scope: Scope) -> Iterator[Page]:
        """Look again for what earlier comparisons missed."""
        key = None if scope.subject is None else self._key(scope.subject)
        while True:
            lost = self._ledger.find_open_losses(comparison, RESOURCES_PER_PAGE, key)
            if lost.is_empty():
                return
            held = self._store.read_all(lost["subject"])
            back = pl.Series([name for name, one in held.items() if one is not None], dtype=pl.String)
            self._ledger.restore_resources(self.datastore_id, back)
            gone = lost.filter(~pl.col("subject").is_in(back.implode())).with_columns(
                kind=pl.lit(FindingKind.MISSING_IN_STORE.value), found=pl.lit(None, pl.String)
            )
            counts = {"found_again": back.len()}
            yield Page({"phase": _LOSSES}, counts, gone.select(FOUND.names()), found_again=tuple(back))


def digest_of(held: dict[str, Any]) -> str:
    """Return the digest of a stored resource, without the extension by which the store marks one that has issues."""
    extensions = held.get("extension")
    if isinstance(extensions, list):
        kept = [one for one in extensions if not (isinstance(one, dict) and one.get("url") == VALIDATION_ISSUE)]
        held = {name: value for name, value in held.items() if name != "extension"} | (
            {"extension": kept} if kept else {}
        )
    return content_digest(held)
