"""What the comparisons of all kinds share: their course, their estimate, a sample, and earlier losses.

A comparison goes through five phases: the listing of the data store, what the ledger has stored, what is foreign, the
contracts, and what earlier comparisons missed. Each page has the position at which it goes on.
"""

from __future__ import annotations

import math
import secrets
from abc import ABC, abstractmethod
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

import polars as pl

from airlock.ledger.columns import FindingKind
from airlock.ledger.comparisons import FOUND, UNDECIDED
from airlock.pipelines import ClinicalPipeline, ImagingPipeline, Publication
from airlock.stages.local_list import LocalList
from airlock.stages.reconcile_evidence import EvidenceFiles
from airlock.stages.reconcile_scope import EVIDENCE, SOURCE, STORE, Estimate, Expected, Page, ReconcileError
from airlock.stages.reconcile_source import compare_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airlock.ledger import Ledger
    from airlock.stages.reconcile_scope import Scope
    from airlock.stages.reconcile_source import Archive, ObjectComparison
    from airlock.storage.requests import RequestMeter
    from airlock.storage.workspace import Workspace

LOSSES_PER_PAGE = 1_000
YOUNG_HOURS = 48.0  # in which a replaced object is left to the next runs, or the lookback if that is longer
LISTING, STORED, FOREIGN, CONTRACTS, LOSSES = _PHASES = ("listing", "stored", "foreign", "contracts", "losses")


class Metered(Protocol):
    """A data store."""

    @property
    def meter(self) -> RequestMeter:
        """Counts and paces the requests."""


UnitsT = TypeVar("UnitsT", list[str], pl.DataFrame)  # studies, or resources
PipelineT = TypeVar("PipelineT", bound=ImagingPipeline | ClinicalPipeline | Publication)
StoreT = TypeVar("StoreT", bound=Metered)


@dataclass
class Comparer(ABC, Generic[UnitsT, PipelineT, StoreT]):
    """The part of a reconciliation that each kind of pipeline does for itself.

    Parameters
    ----------
    ledger, pipeline
        The ledger and the pipeline.
    store, archive
        Its data store, and S3.
    workspace_of
        Returns a folder of the pipeline in the workspace, by its name: of a comparison, or of a run.
    random_key
        Returns the key from which a sample is taken.
    """

    ledger: Ledger
    pipeline: PipelineT
    store: StoreT
    archive: Archive
    workspace_of: Callable[[str], Workspace]
    random_key: Callable[[], str] = lambda: secrets.token_hex(32)

    unit: ClassVar[str]  # of which a sample consists: studies or resources
    compared_by: ClassVar[str]  # the column of `FOUND` that names a unit
    unknown: ClassVar[str]  # the refusal of a subject that the ledger does not know
    listed_as: ClassVar[pl.Schema]  # the listing's columns, of which the first is the key
    listed_by: ClassVar[str | None] = None  # another column by which it is looked up
    confirmed_by: ClassVar[str]  # the request that confirms a difference
    store_kinds: ClassVar[tuple[FindingKind, ...]]  # of differences
    content_kinds: ClassVar[tuple[FindingKind, ...]] = ()
    manifests: ClassVar[tuple[str, ...]]  # the names that the manifest of a job may have in its output folder

    @property
    def folder(self) -> str:
        """The folder of a run's workspace that has the chain's datasets."""
        return ""

    @cached_property
    def files(self) -> EvidenceFiles:
        """Finds files on which contracts rest, and that are gone."""
        return EvidenceFiles(self.ledger, self.archive, self.pipeline, self.manifests, self.folder)

    @property
    def datastore_id(self) -> str:
        """The data store."""
        return self.pipeline.datastore_id

    @property
    def meters(self) -> Sequence[RequestMeter]:
        """The meters that count its requests."""
        return self.store.meter, self.archive.meter

    @abstractmethod
    def check(self) -> None:
        """Refuse a data store that does not exist or may not be read.

        Raises
        ------
        ReconcileError
            With the remedy.
        """

    @abstractmethod
    def count_missing(self, comparison: int) -> int:
        """Return how many instances or resources that the comparison missed still count as stored."""

    @abstractmethod
    def forget_missing(self, comparison: int) -> int:
        """Let what the comparison missed no longer count as stored; return its number."""

    @abstractmethod
    def _list_requests(self, scope: Scope) -> Iterator[tuple[str, float, RequestMeter, float | None]]:
        """Yield the requests of a comparison: their name, number, meter, and price of a thousand if it is known."""

    def _notes(self, scope: Scope) -> Iterator[str]:  # noqa: ARG002  # a kind may need it
        """Yield what to know before a comparison."""
        yield f"Each difference needs one more request ({self.confirmed_by}), which confirms it."

    @abstractmethod
    def _list_store(self, position: Any) -> Iterator[tuple[pl.DataFrame, Any]]:
        """Yield the data store's objects, with at least the columns `listed_as`, and the position after them."""

    @abstractmethod
    def _read_subject(self, subject: str) -> UnitsT:
        """Return the units of a study or patient."""

    @abstractmethod
    def _read_sample(self, key: str, limit: int) -> tuple[UnitsT, list[str]]:
        """Return the units with the next keys from one on, and these keys; the keys are hashes."""

    @abstractmethod
    def _read_next(self, after: Any) -> tuple[UnitsT, Any]:
        """Return the next units of the ledger and the position after them; None begins."""

    @abstractmethod
    def _compare(self, units: UnitsT, listed: LocalList, scope: Scope, position: Any) -> Page:
        """Compare units."""

    @abstractmethod
    def _find_foreign(self, listed: LocalList, after: str) -> Iterator[tuple[str, pl.DataFrame, dict[str, str]]]:
        """Yield what the ledger does not know of, as `FOUND`, with its key and what had to be left out."""

    def _compare_contracts(self, after: str) -> Iterator[Page]:  # noqa: ARG002  # a kind may need it
        """Yield the comparison of contracts, where pages of units have not compared them."""
        yield from ()

    @abstractmethod
    def _restore(self, lost: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
        """Let what is in the data store after all count as stored; return its subjects, and those it cannot judge."""

    def _find_key(self, subject: str) -> str:
        """Return the study key of findings about a study or patient."""
        return subject

    def kinds(self, scope: Scope) -> tuple[FindingKind, ...]:
        """Return the kinds of differences that a comparison of this scope finds."""
        found: list[FindingKind] = []
        if STORE in scope.parts:
            found += self.store_kinds + (self.content_kinds if scope.content else ())
        if SOURCE in scope.parts:
            found.append(FindingKind.VANISHED)
        if SOURCE in scope.parts and (scope.content or STORE not in scope.parts):
            found.append(FindingKind.OTHER_CONTENT)
        if EVIDENCE in scope.parts:
            found.append(FindingKind.NO_EVIDENCE)
        return tuple(found)

    def estimate(self, scope: Scope) -> Estimate:
        """Return the requests that the comparison will need."""
        requests = tuple(
            Expected(what, math.ceil(number), meter.per_second, price and math.ceil(number) / 1000 * price)
            for what, number, meter, price in self._list_requests(scope)
        )
        return Estimate(requests, self.pipeline.plan.prices.currency, tuple(self._notes(scope)))

    def pages(self, comparison: int, scope: Scope, position: Any) -> Iterator[Page]:
        """Yield the comparison from a position on; None is the beginning."""
        lists = scope.is_whole and STORE in scope.parts
        position = position or {"phase": LISTING if lists else STORED}
        left = _PHASES[_PHASES.index(position["phase"]) :]
        with LocalList(self.listed_as, self.listed_by) as listed:
            seeks = lists and FOREIGN in left
            if seeks:
                yield from self._list(comparison, listed, position)
            parts = {"parts": position["parts"]} if "parts" in position else {}
            for units, place in self._choose(scope, position) if STORED in left else ():
                yield self._compare(units, listed, scope, {"phase": STORED, **place, **parts})
            for after, found, left_out in self._find_foreign(listed, _after(position, FOREIGN)) if seeks else ():
                counts = {"differing": found[self.compared_by].n_unique()}
                yield Page({"phase": FOREIGN, "after": after, **parts}, counts, found, (), left_out)
        if scope.is_whole and EVIDENCE in scope.parts and CONTRACTS in left:
            yield from self._compare_contracts(_after(position, CONTRACTS))
        if STORE in scope.parts and scope.sample is None:
            yield from self._look_for_losses(comparison, scope)

    def _list(self, comparison: int, listed: LocalList, position: dict[str, Any]) -> Iterator[Page]:
        """List the data store into parts in the workspace, and add all parts to the listing."""
        workspace, parts = self.workspace_of(f"reconcile/{comparison}"), int(position.get("parts", 0))
        for number in range(parts):
            listed.add(workspace.read(f"listed/{number:05}", self.listed_as))
        for rows, at in self._list_store(position.get("at")) if position["phase"] == LISTING else ():
            new = rows.select(self.listed_as.names())
            new = new.join(listed.find(new[listed.key]), on=listed.key, how="anti")  # an interruption repeats some
            if new.is_empty():
                continue
            listed.add(new)
            workspace.write(f"listed/{parts:05}", self.listed_as, new)
            parts += 1
            yield Page({"phase": LISTING, "parts": parts, "at": at}, {"listed": new.height})
        position["parts"] = parts

    def _choose(self, scope: Scope, position: dict[str, Any]) -> Iterator[tuple[UnitsT, dict[str, Any]]]:
        """Yield the units of each page with the position after it."""
        if scope.sample is not None:
            yield from self._choose_sample(scope.sample, position)
        elif scope.subject is not None:
            units = self._read_subject(scope.subject)
            if not len(units):
                raise ReconcileError(self.unknown)
            if "after" not in position:
                yield units, {"after": scope.subject}
        else:
            units, after = self._read_next(position.get("after"))
            while len(units):
                yield units, {"after": after}
                units, after = self._read_next(after)

    def _choose_sample(self, size: int, position: dict[str, Any]) -> Iterator[tuple[UnitsT, dict[str, Any]]]:
        """Yield units in the order of their keys from a random one on; after the last key the first follows."""
        start = position.get("start") or self.random_key()
        key, left, is_wrapped = position.get("key", start), position.get("left", size), position.get("wrapped", False)
        while left > 0:
            units, keys = self._read_sample(key, left)
            if is_wrapped:
                number = bisect_left(keys, start)
                units, keys = units[:number], keys[:number]
            if keys:
                left -= len(keys)
                key = f"{keys[-1]}+"  # the next key is greater
                yield units, {"start": start, "key": key, "left": left, "wrapped": is_wrapped}
            elif is_wrapped:
                return
            else:
                key, is_wrapped = "", True

    def _compare_source(self, objects: pl.DataFrame) -> ObjectComparison:
        """Compare arrivals with their objects, see `compare_objects`."""
        young = max(YOUNG_HOURS, self.pipeline.source.lookback_hours)
        return compare_objects(self.ledger, self.archive, objects, young)

    def _find_lacking_files(self, subject_keys: Sequence[str], batches: pl.DataFrame) -> pl.DataFrame:
        """Return the contracts of these subjects whose file is gone, and these batches whose job has no output."""
        contracts = self.files.find_lacking_contracts(pl.Series(subject_keys, dtype=pl.String))
        return frame_found(chain(contracts, self.files.find_lacking_outputs(batches)))

    def _look_for_losses(self, comparison: int, scope: Scope) -> Iterator[Page]:
        """Look again for what earlier comparisons missed: a store that was out of reach may have it after all."""
        key = None if scope.subject is None else self._find_key(scope.subject)
        while (lost := self.ledger.find_open_losses(comparison, LOSSES_PER_PAGE, key)).height:
            back, unclear = self._restore(lost)
            still = lost.filter(~pl.col("subject").is_in(back.implode())).with_columns(
                kind=pl.lit(FindingKind.MISSING_IN_STORE.value),
                found=pl.when(pl.col("subject").is_in(unclear.implode())).then(pl.lit(UNDECIDED)),
            )
            counts = {"found_again": back.len()}
            yield Page({"phase": LOSSES}, counts, still.select(FOUND.names()), found_again=tuple(back))


AnyComparer: TypeAlias = "Comparer[Any, Any, Any]"


def _after(position: dict[str, Any], phase: str) -> str:
    return str(position["after"]) if position["phase"] == phase else ""


def join_found(*frames: pl.DataFrame) -> pl.DataFrame:
    """Return differences together, as `FOUND`."""
    return pl.concat([one.select(FOUND.names()).cast(FOUND) for one in frames])


def frame_found(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Return differences as `FOUND`; columns that a row lacks are null."""
    return pl.DataFrame(list(rows), FOUND, orient="row")
