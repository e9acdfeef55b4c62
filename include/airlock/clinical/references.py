"""References: which resource each one means, how it has to be written, and which of them lead nowhere.

Sources: FHIR R4, "References" (literal and conditional references), "Bundle" (resolving references by fullUrl).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import polars as pl

from airlock.clinical.records import REWRITES
from airlock.clinical.resources import RESOURCE_TYPES
from airlock.stages.resources import UNIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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

EDGES = pl.Schema(UNIT | {"target": pl.String()})
LOST = pl.Schema(UNIT | {"why": pl.String()})


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


@dataclass(frozen=True)
class References:
    """The meaning of a delivery's references."""

    rewrites: pl.DataFrame  # REWRITES: those that must be written otherwise
    edges: pl.DataFrame  # EDGES: the resource Type/id that a unit refers to
    lost: pl.DataFrame  # LOST: units with a reference that can lead nowhere


def resolve(units: pl.DataFrame, named: pl.DataFrame, store: FhirStore | None) -> References:
    """Return the meaning of every reference of these units.

    Parameters
    ----------
    units
        Accepted rows of the resources dataset: columns arrival_id, line, references.
    named
        All resources of the delivery, to which they may refer: arrival_id, resource_type, resource_id, full_url,
        identifiers. Twins count: a Bundle's fullUrl means its resource, whichever file brought it first.
    store
        Is searched for the conditional references that nothing in the delivery answers.

    Notes
    -----
    A reference to another server is left as it is.
    """
    own = named.with_columns(target=_target(named))
    found = (
        units.select("arrival_id", "line", found="references")
        .explode("found")
        .filter(pl.col("found").is_not_null())
        .join(_by_full_url(own), on=["arrival_id", "found"], how="left", maintain_order="left")
        .with_columns(literal=pl.col("found").str.extract(_LITERAL))
    )
    asked = found.filter(pl.col("reference").is_null() & pl.col("found").str.contains(_CONDITIONAL))
    answers = _answers(asked["found"].unique().sort().to_list(), own, store)
    answer = pl.col("found").replace_strict(answers, default=None, return_dtype=pl.String)
    found = found.with_columns(reference=pl.coalesce("reference", answer))
    target = pl.coalesce("reference", "literal")
    nowhere = target.is_null() & pl.col("found").str.contains(f"{_CONDITIONAL}|{_URN}")
    kind = pl.when(pl.col("found").str.contains(_CONDITIONAL)).then(pl.lit("conditional")).otherwise(pl.lit("urn"))
    why = pl.format("a {} reference that leads to no single resource", kind)
    written = found.filter(pl.col("reference").is_not_null() & (pl.col("reference") != pl.col("found")))
    return References(
        written.select(REWRITES.names()),
        found.filter(target.is_not_null()).select("arrival_id", "line", target=target),
        found.filter(nowhere).select("arrival_id", "line", why=why),
    )


def _target(units: pl.DataFrame) -> pl.Series:
    return units.select(pl.format("{}/{}", "resource_type", "resource_id")).to_series()


def _by_full_url(own: pl.DataFrame) -> pl.DataFrame:
    """Return the resource of each fullUrl within its file; a fullUrl of two entries means nothing."""
    named = own.filter(pl.col("full_url").is_not_null()).select("arrival_id", found="full_url", reference="target")
    return named.unique().unique(["arrival_id", "found"], keep="none")


def _answers(asked: list[str], own: pl.DataFrame, store: FhirStore | None) -> dict[str, str]:
    """Return the one resource that each conditional reference means, where there is one."""
    bearers = (
        own.select("resource_type", "target", identifier="identifiers")
        .explode("identifier")
        .filter(pl.col("identifier").is_not_null())
        .group_by("resource_type", "identifier")
        .agg(pl.col("target").unique())
    )
    known = {(kind, identifier): targets for kind, identifier, targets in bearers.iter_rows()}
    answers = {}
    for reference in asked:
        kind, _, query = reference.partition("?")
        identifier = unquote(query.removeprefix(_BY_IDENTIFIER)) if query.startswith(_BY_IDENTIFIER) else None
        if identifier is not None and not _has_system(identifier):
            continue  # a value without its system may belong to anybody
        targets = known.get((kind, identifier)) or _searched(store, kind, query)
        if len(targets) == 1:
            answers[reference] = targets[0]
    return answers


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
    edges: pl.DataFrame,
    known: Callable[[pl.DataFrame], pl.DataFrame],
    accepted: pl.Series,
    store: FhirStore | None,
    at_a_time: int,
) -> set[str]:
    """Return the targets that are neither among the accepted nor known nor in the data store.

    Parameters
    ----------
    edges
        `EDGES`.
    known
        Gives those of a frame of resource_type and resource_id that the ledger knows.
    accepted
        Type/id of what is in the delivery.
    store
        Is asked for the rest; without it, the rest is missing.
    at_a_time
        Reads at a time.
    """
    open_ones = edges.select("target").unique().filter(~pl.col("target").is_in(accepted.implode()))
    parts = pl.col("target").str.splitn("/", 2).struct.rename_fields(["resource_type", "resource_id"])
    keys = open_ones.select(parts).unnest("target") if open_ones.height else None
    if keys is None:
        return set()
    in_ledger = known(keys).select(pl.format("{}/{}", "resource_type", "resource_id")).to_series()
    rest = sorted(set(open_ones["target"]) - set(in_ledger))
    if store is None:
        return set(rest)
    asked = [target for target in rest if target.partition("/")[0] in RESOURCE_TYPES]
    reader = store
    with ThreadPoolExecutor(at_a_time) as pool:
        there = list(pool.map(lambda target: reader.read(*target.split("/", 1)) is not None, asked))
    return set(rest) - {target for target, is_there in zip(asked, there, strict=True) if is_there}


def cascade(units: pl.DataFrame, edges: pl.DataFrame, missing_targets: set[str]) -> dict[tuple[str, int], str]:
    """Return the units that refer to what is missing, and those that refer to them, and so on; with the type missed.

    Parameters
    ----------
    units
        Accepted rows with arrival_id, line, resource_type, resource_id.
    edges
        `EDGES`.
    missing_targets
        Type/id.
    """
    named = units.with_columns(own=_target(units)).select("arrival_id", "line", "own")
    left = edges.join(named, on=["arrival_id", "line"], how="inner", maintain_order="left")
    stopped: dict[tuple[str, int], str] = {}
    gone = missing_targets
    while gone:
        hit = left.filter(pl.col("target").is_in(sorted(gone)))
        left = left.join(hit.select("arrival_id", "line").unique(), on=["arrival_id", "line"], how="anti")
        for arrival, line, target in hit.select("arrival_id", "line", "target").iter_rows():
            stopped.setdefault((arrival, line), target.partition("/")[0])
        gone = set(hit["own"])
    return stopped
