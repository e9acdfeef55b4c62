"""The parameters of a search beside its criteria: pages, totals, order, included resources, parts of resources."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localaws.healthlake.exchange import bad_request
from localaws.healthlake.search_conditions import TIMES, find_parameter, find_reference_parameter, find_type

if TYPE_CHECKING:
    from collections.abc import Iterable

    from localaws.healthlake.search_parameters import ResourceType

CONTROLS = frozenset(
    {"_count", "_total", "_sort", "_include", "_revinclude", "_elements", "_summary", "_format", "_pretty", "page"}
)
"""Parameters that are not criteria."""
LARGEST_PAGE = 100
DEFAULT_PAGE = 10
MOST_SORT_RULES = 5
NESTED = frozenset({"HumanName", "Address"})
"""Types whose parameters cannot be sorted by ("_sort" in FHIR R4 search parameters for HealthLake)."""
ALWAYS = frozenset({"resourceType", "id", "meta"})
SUMMARIES = frozenset({"true", "text", "data", "false"})
FORMATS = frozenset({"json", "application/json", "application/fhir+json"})


@dataclass(frozen=True)
class Page:
    """The first match of a page, and the moment as of which the search reads the store."""

    until: float
    offset: int = 0

    def token(self) -> str:
        """Return the page as a ``next`` link has it: base64 that ends in ``==``, as HealthLake's does."""
        text = f"{self.until!r}:{self.offset}"
        return base64.b64encode((text + " " * ((1 - len(text)) % 3)).encode()).decode()

    @classmethod
    def read(cls, token: str) -> Page:
        """Parse a token of ours.

        Raises
        ------
        FhirError
            400: it is none.
        """
        try:
            until, _, offset = base64.b64decode(token, validate=True).decode().partition(":")
            page = cls(float(until), int(offset))
        except (binascii.Error, ValueError):
            raise bad_request(
                "The page is not one of a next link; follow the link as it is, with its = encoded."
            ) from None
        if page.offset < 0:
            raise bad_request("The page is not one of a next link.")
        return page


@dataclass(frozen=True)
class Include:
    """``_include`` or ``_revinclude``: a reference parameter of a type, and the type that it is to lead to."""

    source: str
    parameter: str
    target: str | None

    @classmethod
    def read(cls, text: str) -> Include:
        """Parse ``<type>:<reference parameter>[:<target type>]``.

        Raises
        ------
        FhirError
            400: another form, or no such parameter.
        """
        source, parameter, target, *more = (*text.split(":"), "", "")
        if any(more) or not parameter:
            raise bad_request("_include and _revinclude are written <type>:<reference parameter>[:<target type>].")
        targets = find_reference_parameter(source, parameter).targets
        if target and target not in targets:
            raise bad_request(f"{source}:{parameter} does not refer to resources of the type after it.")
        return cls(source, parameter, target or None)


@dataclass(frozen=True)
class Asked:
    """One search, read.

    Parameters
    ----------
    type : ResourceType
        What is searched.
    criteria : tuple of (name, value)
        The search parameters proper.
    page : Page, optional
        None for the first page.
    count : int
        Most matches on a page.
    total : bool
        Whether all matches are counted.
    sort : tuple of (parameter, descending)
        Order of the matches.
    include, revinclude : tuple of Include
        What the matches refer to, and what refers to them.
    elements : frozenset of str, optional
        Elements that are answered; None for all of them.
    without_text : bool
        Whether ``text`` is left out (``_summary=data``).
    kept : tuple of (name, value)
        All parameters but the page, for the links to other pages.
    """

    type: ResourceType
    criteria: tuple[tuple[str, str], ...]
    page: Page | None = None
    count: int = DEFAULT_PAGE
    total: bool = False
    sort: tuple[tuple[str, bool], ...] = ()
    include: tuple[Include, ...] = ()
    revinclude: tuple[Include, ...] = ()
    elements: frozenset[str] | None = None
    without_text: bool = False
    kept: tuple[tuple[str, str], ...] = ()


def read_search(resource_type: str, pairs: Iterable[tuple[str, str]]) -> Asked:
    """Read the parameters of a search.

    Raises
    ------
    FhirError
        400: a value that HealthLake does not take, or two that it does not take together.
    """
    given = list(pairs)
    controls: dict[str, list[str]] = {}
    for name, value in given:
        if name in CONTROLS:
            controls.setdefault(name, []).append(value)
    known = find_type(resource_type)
    single = {name: values[0] for name, values in controls.items() if name not in {"_include", "_revinclude"}}
    _check(controls)
    return Asked(
        known,
        tuple(pair for pair in given if pair[0] not in CONTROLS),
        page=Page.read(single["page"]) if "page" in single else None,
        count=_count(single.get("_count", str(DEFAULT_PAGE))),
        total=_total(single.get("_total", "none")),
        sort=_sort(resource_type, single.get("_sort", "")),
        include=_includes(controls.get("_include", []), resource_type),
        revinclude=_includes(controls.get("_revinclude", [])),
        elements=_elements(known, single),
        without_text=single.get("_summary") == "data",
        kept=tuple(pair for pair in given if pair[0] != "page"),
    )


def _check(controls: dict[str, list[str]]) -> None:
    for name, values in controls.items():
        if len(values) > 1 and name not in {"_include", "_revinclude"}:
            raise bad_request(f"{name} can be given once.")
    if "_summary" in controls and "_elements" in controls:
        raise bad_request("_summary and _elements cannot be given together.")
    if controls.get("_summary") == ["text"] and ("_include" in controls or "_revinclude" in controls):
        raise bad_request("_summary=text cannot be given together with _include or _revinclude.")
    if not set(controls.get("_summary", [])) <= SUMMARIES:
        raise bad_request(f"_summary must be one of {', '.join(sorted(SUMMARIES))}.")
    if not set(controls.get("_format", [])) <= FORMATS:
        raise bad_request(f"_format must be one of {', '.join(sorted(FORMATS))}.", "not-supported")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= LARGEST_PAGE):
        raise bad_request(f"_count must be between 1 and {LARGEST_PAGE}.")
    return int(text)


def _total(text: str) -> bool:
    if text not in {"accurate", "none"}:
        raise bad_request("_total must be accurate or none.")
    return text == "accurate"


def _sort(resource_type: str, text: str) -> tuple[tuple[str, bool], ...]:
    rules = tuple((item.removeprefix("-"), item.startswith("-")) for item in text.split(",") if item)
    if len(rules) > MOST_SORT_RULES:
        raise bad_request(f"_sort takes up to {MOST_SORT_RULES} rules.", "too-costly")
    for code, _ in rules:
        if code in TIMES:
            continue
        parameter = find_parameter(resource_type, code)
        if not parameter.paths or any(path.type in NESTED for path in parameter.paths):
            raise bad_request(f"_sort does not take {code}: its values are nested.", "not-supported")
    return rules


def _includes(texts: list[str], source: str | None = None) -> tuple[Include, ...]:
    found = tuple(Include.read(text) for text in texts)
    if source and any(item.source != source for item in found):
        raise bad_request(f"_include must begin with {source}, the type that is searched.")
    return found


def _elements(known: ResourceType, single: dict[str, str]) -> frozenset[str] | None:
    summary = single.get("_summary")
    if summary == "true":
        return ALWAYS | known.required | known.summary
    if summary == "text":
        return ALWAYS | known.required | {"text"}
    if "_elements" in single:
        return ALWAYS | known.required | _with_choices(known, single["_elements"].split(","))
    return None


def _with_choices(known: ResourceType, names: list[str]) -> frozenset[str]:
    """Return element names as JSON has them: ``effective`` stands for ``effectiveDateTime`` and the rest."""
    return frozenset(names) | {key for key, base in known.choices.items() if base in names}
