"""References: the resource that each one means, its form in the import file, and references without a resource.

Sources: FHIR R4, "References" (literal and conditional references), "Bundle" (resolving references by fullUrl).
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import polars as pl

from airlock.clinical.resources import RESOURCE_TYPES
from airlock.ledger.parked import UNANSWERED
from airlock.records import schema
from airlock.stages.resources import UNIT
from airlock.storage.spool import zip_partitions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from airlock.clinical.read_back import FhirReader
    from airlock.storage.spool import Partitions, Spool

# An id of FHIR, less "." and ".." (the expressions of polars cannot look ahead).
_ID = r"(?:[A-Za-z0-9\-.]{3,64}|[A-Za-z0-9\-]\.?|\.[A-Za-z0-9\-]|[A-Za-z0-9\-]{2})"
_LITERAL = rf"^([A-Za-z]+/{_ID})(?:/_history/[A-Za-z0-9\-.]{{1,64}})?$"
_CONDITIONAL = r"^[A-Z][A-Za-z]+\?.+$"
_URN = r"^urn:(?:uuid|oid):"
_BY_IDENTIFIER = "identifier="
_ALTERNATIVES = re.compile(r"(?<!\\)(?:\\\\)*,")
_REFUSED = (  # statuses about one request's content, not about the data store
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)

_PLACE = {"row": pl.Int64(), "edge": pl.Int64()}  # of a unit in the delivery, of a reference in the unit
REFERENCES = schema(_PLACE, UNIT, {"found": pl.String})
MEANINGS = schema(
    REFERENCES,
    {
        "reference": pl.String,  # its form in the import file, if the delivery or the data store determines it
        # The Type/id that it means, or Type/? (`UNANSWERED`); null if it is on another server or means no resource.
        "target": pl.String,
        "why": pl.String,  # the reason if it means no resource, else null
    },
)
EDGES = schema(_PLACE, {"own": pl.String, "target": pl.String})  # the referring resource and its target, as Type/id
STOPPED = schema(_PLACE, {"own": pl.String, "kind": pl.String})  # the referring resource, and the type of its target
_FULL_URLS = schema({"arrival_id": pl.String, "found": pl.String, "reference": pl.String})
_BEARERS = schema({"question": pl.String, "target": pl.String})
_ASKED = schema(REFERENCES, {"question": pl.String})
IS_REWRITTEN = pl.col("reference").is_not_null() & (pl.col("reference") != pl.col("found"))


class FhirStore(Protocol):
    """The data store's REST API as validate uses it; its errors have a ``status``, the HTTP status."""

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return a resource; None if there is none."""

    def search(self, resource_type: str, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the resources that match."""

    def validate(self, resource: str) -> dict[str, Any]:
        """Return $validate's OperationOutcome on a resource's text, whose decimals keep their digits."""


def is_refused(error: Exception) -> bool:
    """Return whether an error means that the data store refused one request for its content."""
    return getattr(error, "status", None) in _REFUSED


class Resolver:
    """Finds the resource that each reference of a delivery means, with one partition at a time in memory.

    A reference means the entry of its file that has it as fullUrl. A conditional reference means the one resource of
    the delivery with the identifier, or else the one that the data store finds. A reference to another server stays as
    it is.

    Parameters
    ----------
    partitions
        Opens the spools.
    store
        The data store, searched for conditional references that no resource of the delivery answers.
    awaited
        The types of which a resource with the identifier may come later.
    """

    def __init__(self, partitions: Partitions, store: FhirStore | None, awaited: Collection[str] = ()) -> None:
        in_file = pl.format("{} {}", "arrival_id", "found")
        self._store = store
        self._awaited = awaited
        self._references = partitions.spool(in_file, REFERENCES)
        self._full_urls = partitions.spool(in_file, _FULL_URLS)
        self._asked = partitions.spool(pl.col("question"), _ASKED)
        self._bearers = partitions.spool(pl.col("question"), _BEARERS)

    def add_resources(self, named: pl.DataFrame) -> None:
        """Add possible targets of references: arrival_id, resource_type, resource_id, full_url, identifiers.

        Include duplicates: the fullUrl of a Bundle means its resource, even if another file brought the same one first.
        """
        own = named.with_columns(reference=name_of(), target=name_of())
        self._full_urls.add(
            own.filter(pl.col("full_url").is_not_null())
            .select("arrival_id", "full_url", "reference")
            .rename({"full_url": "found"})
        )
        bearers = (
            own.select("resource_type", "target", identifier="identifiers")
            .explode("identifier")
            .drop_nulls("identifier")
        )
        self._bearers.add(
            bearers.select(pl.format("{}?identifier={}", "resource_type", "identifier").alias("question"), "target")
        )

    def add_references(self, units: pl.DataFrame) -> None:
        """Add the references of units: row, arrival_id, line, references."""
        found = units.filter(pl.col("references").list.len() > 0).with_columns(
            edge=pl.int_ranges(pl.col("references").list.len())
        )
        rows = found.select("row", "edge", "arrival_id", "line", found="references").explode("edge", "found")
        self._references.add(rows.drop_nulls("found").cast(REFERENCES))

    def find_meanings(self) -> Iterator[pl.DataFrame]:
        """Yield the meanings of all references (`MEANINGS`), partition by partition."""
        for references, full_urls in zip_partitions(self._references, self._full_urls):
            # A fullUrl that two entries have is ambiguous, so it means no resource.
            borne = full_urls.unique().unique(["arrival_id", "found"], keep="none")
            found = references.join(borne, on=["arrival_id", "found"], how="left", maintain_order="left")
            asks = pl.col("reference").is_null() & pl.col("found").str.contains(_CONDITIONAL)
            yield _as_meanings(found.filter(~asks))
            asked = found.filter(asks)
            questions = {reference: _normalize_question(reference) for reference in asked["found"].unique()}
            question = pl.col("found").replace_strict(questions, default=None, return_dtype=pl.String)
            self._asked.add(asked.with_columns(question=question).select(_ASKED.names()))
        for asked, bearers in zip_partitions(self._asked, self._bearers):
            answers = self._find_answers(asked, bearers)
            there = {found: name for found, name in answers.items() if not is_unanswered(name)}
            answer = pl.col("found").replace_strict(there, default=None, return_dtype=pl.String)
            yield _as_meanings(asked.with_columns(reference=answer), answers)

    def _find_answers(self, asked: pl.DataFrame, bearers: pl.DataFrame) -> dict[str, str]:
        """Return the resource of each conditional reference that means exactly one, or one that may come."""
        wanted = bearers.join(asked, on="question", how="semi").group_by("question").agg(pl.col("target").unique())
        known = dict(wanted.iter_rows())
        answers = {}
        for reference, question in sorted(set(asked.select("found", "question").iter_rows())):
            kind, _, query = reference.partition("?")
            if query.startswith(_BY_IDENTIFIER) and not _names_one(unquote(query.removeprefix(_BY_IDENTIFIER))):
                continue
            targets = known.get(question) or _search_targets(self._store, kind, query)
            if len(targets) == 1:
                answers[reference] = targets[0]
            elif not targets and kind in self._awaited and query.startswith(_BY_IDENTIFIER):
                answers[reference] = f"{kind}/{UNANSWERED}"
        return answers


def is_unanswered(target: str) -> bool:
    """Return whether a target is that of a conditional reference which nothing answers yet."""
    return target.endswith(f"/{UNANSWERED}")


def name_of() -> pl.Expr:
    """Return the name of a unit's resource as Type/id."""
    return pl.format("{}/{}", "resource_type", "resource_id")


def _normalize_question(reference: str) -> str:
    """Return a conditional reference in the form that resources with the identifier answer: its value unquoted."""
    kind, _, query = reference.partition("?")
    if not query.startswith(_BY_IDENTIFIER):
        return reference
    return f"{kind}?{_BY_IDENTIFIER}{unquote(query.removeprefix(_BY_IDENTIFIER))}"


def _as_meanings(found: pl.DataFrame, answers: Mapping[str, str] | None = None) -> pl.DataFrame:
    answered = pl.col("found").replace_strict(answers or {}, default=None, return_dtype=pl.String)
    target = pl.coalesce("reference", pl.col("found").str.extract(_LITERAL), answered)
    is_conditional = pl.col("found").str.contains(_CONDITIONAL)
    kind = pl.when(is_conditional).then(pl.lit("conditional")).otherwise(pl.lit("urn"))
    nowhere = target.is_null() & (is_conditional | pl.col("found").str.contains(_URN))
    why = pl.when(nowhere).then(pl.format("a {} reference that leads to no single resource", kind))
    return found.with_columns(target=target, why=why).select(MEANINGS.names()).cast(MEANINGS)


def _names_one(identifier: str) -> bool:
    """Return whether a search by this identifier can only find those that have it.

    Without its system, a value may belong to several patients; ``system|`` asks for anybody who has a number of it; a
    comma that is not escaped parts alternatives (FHIR R4, search, "token").
    """
    system, bar, value = identifier.partition("|")
    return bool(bar and system.strip() and value.strip()) and not _ALTERNATIVES.search(identifier)


def _search_targets(store: FhirStore | None, kind: str, query: str) -> list[str]:
    """Return at most two resources that the data store finds; more than one means that the reference is ambiguous."""
    pairs = [part.partition("=") for part in query.split("&")]
    params = {name: unquote(value) for name, _, value in pairs}
    if store is None or kind not in RESOURCE_TYPES or len(params) < len(pairs):
        return []
    try:
        return [f"{kind}/{item['id']}" for item in islice(store.search(kind, params), 2)]
    except Exception as error:
        if is_refused(error):  # an unknown parameter, or a value that is not valid for it
            return []
        raise


def find_missing(
    targets: pl.Series,
    known: Callable[[pl.DataFrame], pl.DataFrame],
    accepted: pl.Series,
    store: FhirReader | None,
    at_a_time: int,
) -> set[str]:
    """Return the targets that are not in the delivery, the ledger or the data store.

    Parameters
    ----------
    targets
        The targets of references, as Type/id.
    known
        Returns the rows of a frame (resource_type, resource_id) that the ledger knows.
    accepted
        The accepted resources of the delivery, as Type/id.
    store
        The data store, which is read for the other targets; without it, all of them are missing.
    at_a_time
        The number of concurrent reads.
    """
    open_ones = targets.unique().to_frame("target").filter(~pl.col("target").is_in(accepted.implode()))
    if open_ones.is_empty():
        return set()
    parts = pl.col("target").str.splitn("/", 2).struct.rename_fields(["resource_type", "resource_id"])
    in_ledger = known(open_ones.select(parts).unnest("target")).select(name_of()).to_series()
    rest = sorted(set(open_ones["target"]) - set(in_ledger))
    if store is None:
        return set(rest)
    asked = [one for one in rest if one.partition("/")[0] in RESOURCE_TYPES and not is_unanswered(one)]
    reader = store
    with ThreadPoolExecutor(at_a_time) as pool:
        is_stored = list(pool.map(lambda target: reader.read(*target.split("/", 1)) is not None, asked))
    return set(rest) - {target for target, is_there in zip(asked, is_stored, strict=True) if is_there}


def find_edges(referring: pl.DataFrame, rewrites: pl.DataFrame) -> pl.DataFrame:
    """Return the references to resources (`EDGES`) of units: arrival_id, line, own, found; rewritten ones as written.

    Parameters
    ----------
    referring
        The references as they were delivered.
    rewrites
        Rows of the rewrites dataset.
    """
    units = list(UNIT)
    found = referring.join(rewrites, on=[*units, "found"], how="left", maintain_order="left", nulls_equal=True)
    target = pl.coalesce("reference", "found").str.extract(_LITERAL)
    edges = found.with_columns(target=target, row=pl.lit(0, pl.Int64), edge=pl.lit(0, pl.Int64))
    return edges.drop_nulls("target").select(EDGES.names())


def find_dependents(partitions: Partitions, edges: Spool, missing_targets: Iterable[set[str]]) -> Spool:
    """Return the units that depend on a missing target, directly or through other units: `STOPPED`, by ``own``.

    Parameters
    ----------
    partitions
        Opens the spools.
    edges
        The references between accepted units (`EDGES`), by ``target``.
    missing_targets
        The missing targets, as Type/id: one set for each partition of the edges, in order.
    """
    own = pl.col("own")
    stopped = partitions.spool(own, STOPPED)
    referring = partitions.spool(own, STOPPED, map(find_referring, iter_edge_partitions(edges), missing_targets))
    while referring.rows:
        further = partitions.spool(own, STOPPED)
        for number in range(edges.partitions):
            found = referring.partition(number).sort("edge").unique("own", keep="first", maintain_order=True)
            new = found.join(stopped.partition(number), on="own", how="anti")
            if new.height:
                stopped.add(new)
                further.add(find_referring(edges.partition(number), new["own"]))
        referring.close()
        referring = further
    return stopped


def iter_edge_partitions(edges: Spool) -> Iterator[pl.DataFrame]:
    """Yield every partition of the edges, also those without rows."""
    return map(edges.partition, range(edges.partitions))


def find_referring(edges: pl.DataFrame, gone: Iterable[str]) -> pl.DataFrame:
    """Return the units that refer to these targets (`STOPPED`)."""
    found = edges.filter(pl.col("target").is_in(sorted(gone)))
    return found.select("row", "edge", "own", kind=pl.col("target").str.extract("^([^/]*)"))
