"""The tag of resources that were imported without validation and that nobody had reviewed when they were stored.

A resource with issues stays held, but whoever reads the data store directly sees it: there, the tag says so. Airlock
does not know before the import which resources the data store keeps with issues, so all of them carry it. It stays when
a person releases a resource, and goes with the next content that is imported at another level.
"""

from __future__ import annotations

from typing import Any

from airlock.clinical.resources import dump, load

TAG = {"system": "urn:airlock", "code": "unreviewed", "display": "imported without validation or review"}


def add_tag(body: str) -> str:
    """Return a resource's text with the tag in ``meta.tag``, once; decimals keep their digits."""
    content = load(body.encode())
    given = content.get("meta")
    meta = given if isinstance(given, dict) else {}
    return dump(content | {"meta": meta | {"tag": [*_list_others(meta), TAG]}})


def without_tag(resource: dict[str, Any]) -> dict[str, Any]:
    """Return a stored resource as it was before `add_tag`."""
    meta = resource.get("meta")
    if not isinstance(meta, dict) or not any(map(_is_ours, meta.get("tag") or ())):
        return resource
    others = _list_others(meta)
    kept = {name: value for name, value in meta.items() if name != "tag"} | ({"tag": others} if others else {})
    rest = {name: value for name, value in resource.items() if name != "meta"}
    return rest | ({"meta": kept} if kept else {})


def _list_others(meta: dict[str, Any]) -> list[Any]:
    tags = meta.get("tag")
    return [tag for tag in tags if not _is_ours(tag)] if isinstance(tags, list) else []


def _is_ours(tag: object) -> bool:
    return isinstance(tag, dict) and (tag.get("system"), tag.get("code")) == (TAG["system"], TAG["code"])
