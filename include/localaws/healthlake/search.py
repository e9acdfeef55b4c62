"""Search: matches page by page, with the resources that they refer to and those that refer to them.

Search is frozen: add to it only what Airlock itself asks HealthLake. All that is supported is listed in
tests/unit/localaws/healthlake/test_search_scope.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from localaws.healthlake.exchange import Reply, is_strong
from localaws.healthlake.search_conditions import TIMES, Conditions, find_parameter
from localaws.healthlake.search_request import Page, read_search
from localaws.healthlake.search_sql import Scope, Sql
from localaws.healthlake.store import read_version_row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from localaws.healthlake.exchange import Request
    from localaws.healthlake.search_request import Asked, Include
    from localaws.healthlake.store import Resource, ResourceStore

SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
SORTED_BY = "(SELECT min(coalesce({}, value)) FROM fhir_search WHERE number = fhir_version.number AND parameter = ?)"


class Search:
    """Answers searches; they do not find versions written within the search lag."""

    def __init__(self, store: ResourceStore) -> None:
        self._store = store

    def ids(self, connection: sqlite3.Connection, request: Request, resource_type: str, limit: int) -> list[str]:
        """Return the ids of up to `limit` resources that the query of a conditional update finds."""
        scope = self._scope(request, None)
        where = _where(Conditions(connection, scope), scope, resource_type, request.query)
        query = f"SELECT id FROM fhir_version WHERE {where.text} LIMIT ?"  # noqa: S608 - our own text
        return [row["id"] for row in connection.execute(query, (*where.values, limit))]

    def search(self, connection: sqlite3.Connection, request: Request, resource_type: str) -> Reply:
        """Answer a search."""
        asked = read_search(resource_type, request.query)
        page = asked.page or Page(self._store.indexed_until())
        scope = self._scope(request, page)
        conditions = Conditions(connection, scope)
        found = self._page(connection, _where(conditions, scope, resource_type, asked.criteria), asked, page)
        shown = found[: asked.count]
        bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset"}
        if asked.total:
            bundle["total"] = _count(connection, conditions, scope, asked)
        following = Page(page.until, page.offset + asked.count) if len(found) > asked.count else None
        bundle["link"] = list(_links(request, resource_type, asked, following))
        base = request.datastore.base
        entries = [_entry(base, _select_elements(read_version_row(row).body, asked), "match") for row in shown]
        entries += [_entry(base, body, "include") for body in _included(connection, scope, asked, shown)]
        return Reply(200, {**bundle, "entry": entries} if entries else bundle)

    def _scope(self, request: Request, page: Page | None) -> Scope:
        until = page.until if page else self._store.indexed_until()
        return Scope(request.datastore.datastore_id, until, strong=is_strong(request.headers))

    @staticmethod
    def _page(connection: sqlite3.Connection, where: Sql, asked: Asked, page: Page) -> list[sqlite3.Row]:
        """Return the rows of one page, and one more if there is another page."""
        order = [_order(code, descending) for code, descending in asked.sort]
        text = ", ".join([*(item.text for item in order), "number"])
        query = f"SELECT * FROM fhir_version WHERE {where.text} ORDER BY {text} LIMIT ? OFFSET ?"  # noqa: S608 - ours
        values = (*where.values, *(value for item in order for value in item.values), asked.count + 1, page.offset)
        return connection.execute(query, values).fetchall()


def _where(conditions: Conditions, scope: Scope, resource_type: str, criteria: Iterable[tuple[str, str]]) -> Sql:
    return Sql.all_of([scope.of(resource_type), conditions.matching(resource_type, criteria)])


def _count(connection: sqlite3.Connection, conditions: Conditions, scope: Scope, asked: Asked) -> int:
    """Return the number of all matches, with those that are gone but not yet out of the index."""
    seen = scope.of(asked.type.name, counted=True)
    where = Sql.all_of([seen, conditions.matching(asked.type.name, asked.criteria)])
    query = f"SELECT count(*) FROM fhir_version WHERE {where.text}"  # noqa: S608 - our own text
    (count,) = connection.execute(query, where.values).fetchone()
    return int(count)


def _order(code: str, descending: bool) -> Sql:
    direction = "DESC" if descending else "ASC"
    if code in TIMES or code == "_id":
        return Sql(f"{TIMES.get(code, 'id')} {direction}")
    column = SORTED_BY.format("high" if descending else "low")
    return Sql(f"{column} {direction} NULLS LAST", (code,))


def _links(request: Request, resource_type: str, asked: Asked, following: Page | None) -> Iterator[dict[str, str]]:
    address = f"{request.datastore.base}/{resource_type}"
    query = urlencode(asked.kept)
    own = "&".join([*([query] if query else []), *([f"page={asked.page.token()}"] if asked.page else [])])
    yield {"relation": "self", "url": f"{address}?{own}" if own else address}
    if following is not None:
        # The = at the end of the token are not encoded, as in HealthLake's links.
        yield {"relation": "next", "url": f"{address}?{query}{'&' if query else ''}page={following.token()}"}


def _entry(base: str, body: Resource, mode: str) -> dict[str, Any]:
    address = f"{base}/{body['resourceType']}/{body['id']}"
    return {"fullUrl": address, "resource": body, "search": {"mode": mode}}


def _select_elements(body: Resource, asked: Asked) -> Resource:
    """Return the elements that are asked for; an incomplete resource says so in ``meta.tag``."""
    if asked.elements is None and not asked.without_text:
        return body
    kept = {name: value for name, value in body.items() if _is_kept(name.removeprefix("_"), asked)}
    tags = body["meta"].get("tag", [])
    return {**kept, "meta": {**body["meta"], "tag": [*(tags if isinstance(tags, list) else []), SUBSETTED]}}


def _is_kept(name: str, asked: Asked) -> bool:
    if asked.without_text:
        return name != "text"
    return asked.elements is None or name in asked.elements


def _included(
    connection: sqlite3.Connection, scope: Scope, asked: Asked, rows: list[sqlite3.Row]
) -> Iterator[Resource]:
    seen = {(row["resource_type"], row["id"]) for row in rows}
    for include in asked.include:
        yield from _read_unseen(seen, _referred(connection, scope, include, rows))
    for include in asked.revinclude:
        yield from _read_unseen(seen, _referring(connection, scope, include, rows))


def _read_unseen(seen: set[tuple[str, str]], rows: Iterable[sqlite3.Row]) -> Iterator[Resource]:
    for row in rows:
        name = (row["resource_type"], row["id"])
        if name not in seen:
            seen.add(name)
            yield read_version_row(row).body


def _referred(
    connection: sqlite3.Connection, scope: Scope, include: Include, rows: list[sqlite3.Row]
) -> Iterator[sqlite3.Row]:
    numbers = Sql.one_of("number", (row["number"] for row in rows))
    query = f"SELECT DISTINCT value FROM fhir_search WHERE parameter = ? AND {numbers.text}"  # noqa: S608 - our own text
    names = [row["value"] for row in connection.execute(query, (include.parameter, *numbers.values))]
    targets = [include.target] if include.target else find_parameter(include.source, include.parameter).targets
    for target in targets:
        ids = [name.removeprefix(f"{target}/") for name in names if name.startswith(f"{target}/")]
        yield from _find_in_scope(connection, scope, target, Sql.one_of("id", ids))


def _referring(
    connection: sqlite3.Connection, scope: Scope, include: Include, rows: list[sqlite3.Row]
) -> Iterator[sqlite3.Row]:
    names = [f"{row['resource_type']}/{row['id']}" for row in rows if include.target in (None, row["resource_type"])]
    where = Sql.one_of("value", names).found_by(include.parameter)
    yield from _find_in_scope(connection, scope, include.source, where)


def _find_in_scope(connection: sqlite3.Connection, scope: Scope, resource_type: str, where: Sql) -> list[sqlite3.Row]:
    whole = Sql.all_of([scope.of(resource_type), where])
    query = f"SELECT * FROM fhir_version WHERE {whole.text} ORDER BY number"  # noqa: S608 - our own text
    return connection.execute(query, whole.values).fetchall()
