"""SearchImageSets."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from localaws.errors import invalid
from localaws.imaging.datastores import find_active_datastore
from localaws.paging import end_page, read_page

if TYPE_CHECKING:
    import sqlite3

    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime

COLUMNS = {
    "DICOMPatientId": "patient_id",
    "DICOMAccessionNumber": "accession_number",
    "DICOMStudyId": "study_id",
    "DICOMStudyInstanceUID": "study_uid",
    "DICOMSeriesInstanceUID": "series_uid",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
    "isPrimary": "is_primary",
    "DICOMStudyDateAndTime": "study_date || study_time",
}
RANGES = frozenset({"createdAt", "updatedAt", "DICOMStudyDateAndTime"})
SECOND_FILTERS: dict[str, frozenset[str]] = {
    "updated_at": frozenset({"updatedAt"}),
    "one": frozenset(),
    "is_primary": frozenset({"updatedAt", "isPrimary"}),
}
"""The filters that may accompany a search attribute, by the answer to the choice `search_image_sets_filters`."""
SORTS = {"createdAt": "created_at", "updatedAt": "updated_at", "DICOMStudyDateAndTime": "study_date || study_time"}
DEFAULT_SORT = {"sortField": "updatedAt", "sortOrder": "DESC"}
LAST_TIME = "235959.999999"


class Search:
    """Finds image sets by one attribute, optionally narrowed by a second filter."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def search(self, params: Params) -> Result:
        """Answer SearchImageSets; deleted image sets are not found. New and deleted ones are seen after the lag."""
        criteria = params.get("searchCriteria", {})
        sort = criteria.get("sort", DEFAULT_SORT)
        beside = SECOND_FILTERS[self._runtime.settings.choice("search_image_sets_filters")]
        conditions, values = _conditions(criteria.get("filters", []), beside)
        seen_until = time.time() - self._runtime.settings.image_set_search_lag
        query = (
            "SELECT * FROM image_set WHERE datastore_id = ? "  # noqa: S608 - names of our own
            "AND created_at <= ? AND (deleted_at IS NULL OR deleted_at > ?) "
            f"{''.join(f'AND {condition} ' for condition in conditions)}"
            f"ORDER BY {SORTS[sort['sortField']]} {sort['sortOrder']}, id LIMIT ? OFFSET ?"
        )
        start, number = read_page(params)
        with self._runtime.state.read() as connection:
            find_active_datastore(connection, params["datastoreId"])
            asked = (params["datastoreId"], seen_until, seen_until, *values, number + 1, start)
            rows = connection.execute(query, asked).fetchall()
        shown, token = end_page(rows, start, number)
        return {"imageSetsMetadataSummaries": [_summarise_match(row) for row in shown], "sort": sort, **token}


def _conditions(filters: list[dict[str, Any]], beside: frozenset[str]) -> tuple[list[str], list[Any]]:
    names = [_filter_name(item) for item in filters]
    if len(names) == 2 and (len(set(names)) == 1 or not beside & set(names)):
        more = f", and {' or '.join(sorted(beside, reverse=True))} beside it" if beside else ""
        raise invalid(f"$.searchCriteria.filters: one search attribute{more}")
    conditions, values = [], []
    for name, item in zip(names, filters, strict=True):
        condition, found = _condition(name, item)
        conditions.append(condition)
        values += found
    return conditions, values


def _filter_name(item: dict[str, Any]) -> str:
    names = {name for value in item["values"] for name in value}
    if len(names) != 1 or any(len(value) != 1 for value in item["values"]):
        raise invalid("$.searchCriteria.filters: the values of a filter must all have the same single member")
    return str(names.pop())


def _condition(name: str, item: dict[str, Any]) -> tuple[str, list[Any]]:
    column, values = COLUMNS[name], [value[name] for value in item["values"]]
    expected = 2 if item["operator"] == "BETWEEN" else 1
    if len(values) != expected or (expected == 2 and name not in RANGES):
        raise invalid(f"$.searchCriteria.filters: {item['operator']} cannot take {len(values)} values of {name}")
    if name == "DICOMStudyDateAndTime":
        return f"{column} BETWEEN ? AND ?", [_study_moment(values[0], "000000"), _study_moment(values[-1], LAST_TIME)]
    if expected == 2:
        return f"{column} BETWEEN ? AND ?", values
    return f"{column} = ?", values


def _study_moment(value: dict[str, str], default_time: str) -> str:
    return value["DICOMStudyDate"] + value.get("DICOMStudyTime", default_time)


def _summarise_match(row: sqlite3.Row) -> Result:
    return {
        "imageSetId": row["id"],
        "version": row["latest_version"],
        "createdAt": row["created_at"],
        "updatedAt": row["updated_at"],
        "lastAccessedAt": row["accessed_at"],
        "storageTier": "FREQUENT_ACCESS",
        "DICOMTags": json.loads(row["tags"]),
        "isPrimary": bool(row["is_primary"]),
    }
