"""References: which resource each one means, how it has to be written, and which of them lead nowhere.

Sources: FHIR R4, "References" (literal and conditional references), "Bundle" (resolving references by fullUrl).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import polars as pl

from airlock.clinical.resources import RESOURCE_TYPES
from airlock.records import schema
from airlock.stages.resources import UNIT
from airlock.storage.spool import zip_partitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airlock.storage.spool import Partitions, Spool

# An id of FHIR, less "." and ".." (the expressions of polars cannot look ahead).
_ID = r"(?:[A-Za-z0-9\-.]{3,64}|[A-Za-z0-9\-]\.?|\.[A-Za-z0-9\-]|[A-Za-z0-9\-]{2})"
_LITERAL = rf"^([A-Za-z]+/{_ID})(?:/_history/[A-Za-z0-9\-.]{{1,64}})?$"
_CONDITIONAL = r"^[A-Z][A-Za-z]+\?.+$"
_URN = r"^urn:(?:uuid|oid):"
_BY_IDENTIFIER = "identifier="
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
        "reference": pl.String,  # how it must be written, where the delivery or the data store says so
        "target": pl.String,  # the Type/id that it means; null where that is on another server, or nowhere
        "why": pl.String,  # where it can lead nowhere
    },
)
EDGES = schema(_PLACE, {"own": pl.String, "target": pl.String})  # of two resources, as Type/id
STOPPED = schema(_PLACE, {"own": pl.String, "kind": pl.String})  # the type that is missed
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
    """Return whether the data store refuses a single request for its content."""
    return getattr(error, "status", None) in _REFUSED


class Resolver:
    """Finds out what the references of a delivery mean; of the delivery one partition at a time is in memory.

    A reference means the entry of its file that bears it as fullUrl. A conditional one means the one resource of the
    delivery that bears the identifier, or else the one that the data store finds. One to another server stays as it is.

    Parameters
    ----------
    partitions
        Where rows are set aside.
    store
        Is searched for the conditional references that nothing in the delivery answers.
    """

    def __init__(self, partitions: Partitions, store: FhirStore | None) -> None:
        in_file = pl.format("{} {}", "arrival_id", "found")
        self._store = store
        self._references = partitions.spool(in_file, REFERENCES)
        self._full_urls = partitions.spool(in_file, _FULL_URLS)
        self._asked = partitions.spool(pl.col("question"), _ASKED)
        self._bearers = partitions.spool(pl.col("question"), _BEARERS)

    def add_resources(self, named: pl.DataFrame) -> None:
        """Take in resources that may be referred to: arrival_id, resource_type, resource_id, full_url, identifiers.

        Twins count: a Bundle's fullUrl means its resource, whichever file brought it first.
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
        """Take in the references of units: row, arrival_id, line, references."""
        found = units.filter(pl.col("references").list.len() > 0).with_columns(
            edge=pl.int_ranges(pl.col("references").list.len())
        )
        rows = found.select("row", "edge", "arrival_id", "line", found="references").explode("edge", "found")
        self._references.add(rows.drop_nulls("found").cast(REFERENCES))

    def meanings(self) -> Iterator[pl.DataFrame]:
        """Yield `MEANINGS` of all references, partition by partition."""
        for references, full_urls in zip_partitions(self._references, self._full_urls):
            # One that two entries bear means nothing.
            borne = full_urls.unique().unique(["arrival_id", "found"], keep="none")
            found = references.join(borne, on=["arrival_id", "found"], how="left", maintain_order="left")
            asks = pl.col("reference").is_null() & pl.col("found").str.contains(_CONDITIONAL)
            yield _meanings(found.filter(~asks))
            asked = found.filter(asks)
            questions = {reference: _question(reference) for reference in asked["found"].unique()}
            question = pl.col("found").replace_strict(questions, default=None, return_dtype=pl.String)
            self._asked.add(asked.with_columns(question=question).select(_ASKED.names()))
        for asked, bearers in zip_partitions(self._asked, self._bearers):
            answers = self._answers(asked, bearers)
            answer = pl.col("found").replace_strict(answers, default=None, return_dtype=pl.String)
            yield _meanings(asked.with_columns(reference=answer))

    def _answers(self, asked: pl.DataFrame, bearers: pl.DataFrame) -> dict[str, str]:
        """Return the one resource that each conditional reference means, where there is one."""
        wanted = bearers.join(asked, on="question", how="semi").group_by("question").agg(pl.col("target").unique())
        known = dict(wanted.iter_rows())
        answers = {}
        for reference, question in sorted(set(asked.select("found", "question").iter_rows())):
            kind, _, query = reference.partition("?")
            if query.startswith(_BY_IDENTIFIER) and not _has_system(unquote(query.removeprefix(_BY_IDENTIFIER))):
                continue  # a number may be anybody's without the system that gave it
            targets = known.get(question) or _searched(self._store, kind, query)
            if len(targets) == 1:
                answers[reference] = targets[0]
        return answers


def name_of() -> pl.Expr:
    """Return a unit's resource as Type/id."""
    return pl.format("{}/{}", "resource_type", "resource_id")


def _question(reference: str) -> str:
    """Return a conditional reference as a bearer of the identifier answers it."""
    kind, _, query = reference.partition("?")
    if not query.startswith(_BY_IDENTIFIER):
        return reference
    return f"{kind}?{_BY_IDENTIFIER}{unquote(query.removeprefix(_BY_IDENTIFIER))}"


def _meanings(found: pl.DataFrame) -> pl.DataFrame:
    target = pl.coalesce("reference", pl.col("found").str.extract(_LITERAL))
    is_conditional = pl.col("found").str.contains(_CONDITIONAL)
    kind = pl.when(is_conditional).then(pl.lit("conditional")).otherwise(pl.lit("urn"))
    nowhere = target.is_null() & (is_conditional | pl.col("found").str.contains(_URN))
    why = pl.when(nowhere).then(pl.format("a {} reference that leads to no single resource", kind))
    return found.with_columns(target=target, why=why).select(MEANINGS.names()).cast(MEANINGS)


def _has_system(identifier: str) -> bool:
    system, bar, _ = identifier.partition("|")
    return bool(bar and system)


def _searched(store: FhirStore | None, kind: str, query: str) -> list[str]:
    """Return the resources that the data store finds, two at most: more than one means none."""
    pairs = [part.partition("=") for part in query.split("&")]
    params = {name: unquote(value) for name, _, value in pairs}
    if store is None or kind not in RESOURCE_TYPES or len(params) < len(pairs):
        return []
    try:
        return [f"{kind}/{item['id']}" for item in islice(store.search(kind, params), 2)]
    except Exception as error:
        if is_refused(error):  # it does not know the parameter, or its value is none
            return []
        raise


def missing(
    targets: pl.Series,
    known: Callable[[pl.DataFrame], pl.DataFrame],
    accepted: pl.Series,
    store: FhirStore | None,
    at_a_time: int,
) -> set[str]:
    """Return the targets that are neither among the accepted nor known nor in the data store.

    Parameters
    ----------
    targets
        Type/id that something refers to.
    known
        Gives those of a frame of resource_type and resource_id that the ledger knows.
    accepted
        Type/id of what is in the delivery.
    store
        Is asked for the rest; without it, the rest is missing.
    at_a_time
        Reads at a time.
    """
    open_ones = targets.unique().to_frame("target").filter(~pl.col("target").is_in(accepted.implode()))
    if open_ones.is_empty():
        return set()
    parts = pl.col("target").str.splitn("/", 2).struct.rename_fields(["resource_type", "resource_id"])
    in_ledger = known(open_ones.select(parts).unnest("target")).select(name_of()).to_series()
    rest = sorted(set(open_ones["target"]) - set(in_ledger))
    if store is None:
        return set(rest)
    asked = [target for target in rest if target.partition("/")[0] in RESOURCE_TYPES]
    reader = store
    with ThreadPoolExecutor(at_a_time) as pool:
        is_stored = list(pool.map(lambda target: reader.read(*target.split("/", 1)) is not None, asked))
    return set(rest) - {target for target, is_there in zip(asked, is_stored, strict=True) if is_there}


def cascade(partitions: Partitions, edges: Spool, missing_targets: Iterable[set[str]]) -> Spool:
    """Return the units that refer to what is missing, and those that refer to them, and so on: `STOPPED`, by ``own``.

    Parameters
    ----------
    partitions
        Where rows are set aside.
    edges
        `EDGES` of the accepted units, by ``target``.
    missing_targets
        Type/id, of each partition of the edges in turn.
    """
    own = pl.col("own")
    stopped = partitions.spool(own, STOPPED)
    hits = partitions.spool(own, STOPPED, map(_hits, edges_in(edges), missing_targets))
    while hits.rows:
        further = partitions.spool(own, STOPPED)
        for number in range(edges.partitions):
            found = hits.partition(number).sort("edge").unique("own", keep="first", maintain_order=True)
            new = found.join(stopped.partition(number), on="own", how="anti")
            if new.height:
                stopped.add(new)
                further.add(_hits(edges.partition(number), new["own"]))
        hits.close()
        hits = further
    return stopped


def edges_in(edges: Spool) -> Iterator[pl.DataFrame]:
    """Yield every partition of the edges, those without rows too."""
    return map(edges.partition, range(edges.partitions))


def _hits(edges: pl.DataFrame, gone: Iterable[str]) -> pl.DataFrame:
    """Return what refers to these targets."""
    found = edges.filter(pl.col("target").is_in(sorted(gone)))
    return found.select("row", "edge", "own", kind=pl.col("target").str.extract("^([^/]*)"))
