"""S3 listings as columns: boto3 sends the requests, this module parses the rows of the answers.

botocore makes some ten Python objects of every listed key, which is slow for a listing of an archive. So the rows are
removed from the answer before botocore parses it (its event ``before-parse``), and the standard library's XML parser
reads them into columns. botocore does everything else: credentials, retries, redirects, errors.

The answer is that of ListObjectsV2 (Amazon S3 API Reference) with ``EncodingType=url``, which boto3 requests.
"""

from __future__ import annotations

from contextvars import ContextVar
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

import polars as pl

from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Sequence

LISTED = schema(
    {
        "key": pl.String,
        "version_id": pl.String,  # null in a listing, which names only current versions
        "etag": pl.String,  # without quotes
        "size": pl.Int64,  # bytes
        "last_modified": TIMESTAMP,
    }
)
FRAME_ROWS = 50_000
# botocore calls an event's handlers without a service name first: before its own handler, which parses the whole answer
# to find out whether it is an error.
_EVENT = "before-parse.*.ListObjectsV2"
_PAGE = "Page"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%.f%#z"
_wanted: ContextVar[bool] = ContextVar("airlock_page_wanted", default=False)


class ListingError(OSError):
    """The answer is not a listing, or not a complete one: objects would be overlooked."""


class Page(NamedTuple):
    """Up to a thousand listed objects, column by column: decoded keys, all other values as S3 writes them."""

    keys: list[str]
    etags: list[str | None]
    sizes: list[str | None]
    times: list[str | None]


def list_page(client: Any, **request: str) -> tuple[Page, str | None]:
    """Request one page of a listing.

    Parameters
    ----------
    client
        boto3's client of S3; its other calls are not affected.
    **request
        Parameters of ListObjectsV2.

    Returns
    -------
    page
        The objects, as S3 orders them.
    token
        The ContinuationToken of the next page, None after the last.

    Raises
    ------
    ListingError
        If the answer is not that of S3.
    botocore.exceptions.ClientError
        If S3 answers with an error.
    """
    client.meta.events.register(_EVENT, _take_page, unique_id="airlock-listing")
    reset = _wanted.set(True)
    try:
        reply = client.list_objects_v2(**request)
    finally:
        _wanted.reset(reset)
    if _PAGE not in reply:
        raise ListingError("the answer to a listing is not from S3: check the endpoint of the Airflow connection")
    token = reply.get("NextContinuationToken")
    if reply.get("IsTruncated") and token in {None, request.get("ContinuationToken")}:
        raise ListingError(
            "S3 says that a listing continues, but gives no token: check the endpoint of the Airflow connection"
        )
    return reply[_PAGE], token if reply.get("IsTruncated") else None


def frame_of(pages: Sequence[Page]) -> pl.DataFrame:
    """Return the objects of some pages as `LISTED`.

    Raises
    ------
    ListingError
        If an object has no readable etag, size or time.
    """
    keys, etags, sizes, times = (list(chain.from_iterable(columns)) for columns in zip(*pages, strict=True))
    columns = {"key": keys, "version_id": [None] * len(keys), "etag": etags, "size": sizes, "last_modified": times}
    rows = pl.DataFrame(columns, schema=dict.fromkeys(LISTED, pl.String)).with_columns(
        pl.col("etag").str.strip_chars('"'),
        pl.col("size").cast(pl.Int64, strict=False),
        pl.col("last_modified").str.to_datetime(TIME_FORMAT, time_unit="us", time_zone="UTC", strict=False),
    )
    for name in ("etag", "size", "last_modified"):
        if lacking := rows[name].null_count():
            raise ListingError(f"S3 lists {lacking} objects without a readable {name}: check the endpoint")
    return rows


def without_placeholders(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows without folder placeholders: empty objects whose key ends in ``/``."""
    return rows.filter(~pl.col("key").str.ends_with("/") | (pl.col("size") > 0))


def decode_keys(keys: list[str]) -> list[str]:
    """Return keys without S3's URL encoding, with ``+`` for a space; all at once unless a key has a line feed."""
    together = unquote_plus("\n".join(keys)).split("\n")
    return together if len(together) == len(keys) else [unquote_plus(key) for key in keys]


def _take_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Move the objects of an answer to `list_page` out of the body that botocore parses."""
    body = response_dict["body"]
    if not _wanted.get() or response_dict["status_code"] >= 300:
        return
    if b"<!DOCTYPE" in body:  # the parser reads UTF-8, in which there is no other way to write it
        raise ListingError("the answer to a listing has an XML document type, so is not from S3: check the endpoint")
    try:
        result = ET.XML(body, ET.XMLParser(encoding="utf-8"))  # noqa: S314  # no document type: nothing to expand
    except ET.ParseError:
        return  # botocore retries
    if result.tag.rpartition("}")[2] != "ListBucketResult":
        return  # S3 may answer with an error under the status of a success; botocore handles it
    customized_response_dict[_PAGE] = _page(result)
    contents = _tag(result, "Contents")
    result[:] = [element for element in result if element.tag != contents]
    response_dict["body"] = ET.tostring(result)


def _tag(result: ET.Element, name: str) -> str:
    """Return an element's name in this server's namespace."""
    return result.tag.removesuffix("ListBucketResult") + name


def _page(result: ET.Element) -> Page:
    items = result.findall(_tag(result, "Contents"))
    names = [_tag(result, name) for name in ("Key", "ETag", "Size", "LastModified")]
    keys, etags, sizes, times = ([item.findtext(name) for item in items] for name in names)
    named = [key for key in keys if key]
    if len(named) < len(keys):
        raise ListingError("S3 lists an object without a key: check the endpoint of the Airflow connection")
    is_encoded = result.findtext(_tag(result, "EncodingType")) == "url"
    return Page(decode_keys(named) if is_encoded else named, etags, sizes, times)
