"""``match:`` of a route: the rule that decides, by the values of its fields, whether a route takes a contract.

A rule compares one field, or combines other rules with ``all``, ``any`` or ``not``. A field is named by its path in the
contract, for example ``StudyDate`` or ``series.Modality``. If the path goes through lists, one value that passes the
whole comparison is enough. An absent value passes none.
"""

from __future__ import annotations

import math
import operator
import re
from datetime import date, datetime
from difflib import get_close_matches
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator
from pydantic_core import SchemaError, SchemaValidator, core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MOST_CHARACTERS = 4_096  # of a value or an operand; a longer value passes no comparison
MOST_RULES = 100  # in one all or any
DEEPEST = 8  # levels of nested rules


class Kind(StrEnum):
    """How a field's values are compared."""

    TEXT = "text"
    NUMBER = "number"
    DATE = "date"


# The review decision that released a hold; both kinds of contract have it.
_OVERRIDE = tuple(
    f"override.{name}" for name in ("reason", "reasons", "overridden_by", "override_reason", "overridden_at")
)


_FACTS = ("kind", "sop_class_family", "contrast", "laterality")  # about a series, each with values and tags


def _study_fields() -> dict[str, Kind]:
    text = (
        "schema", "study_key", "pipeline", "datastore_id", "StudyInstanceUID", "StudyTime", "StudyID",
        "StudyDescription", "AccessionNumber", "RequestedProcedureID", "ReferringPhysicianName", "InstitutionName",
        "PatientID", "IssuerOfPatientID", "PatientName", "PatientSex", "ModalitiesInStudy", "series.SeriesInstanceUID",
        "series.Modality", "series.SeriesDescription", "series.BodyPartExamined", "series.StationName",
        "series.image_set_ids", "series.instances.SOPInstanceUID", "series.instances.SOPClassUID",
        "series.instances.TransferSyntaxUID", "series.instances.image_set_id", "series.instances.source",
        "series.instances.etag", "fhir.datastore_id", "fhir.Patient", "fhir.ImagingStudy", "fhir.Endpoint",
        "fhir.ServiceRequest", *_OVERRIDE, "completeness.state", "completeness.declared_by",
        "labels", "series.labels", "TimezoneOffsetFromUTC",
        *(f"procedures.{name}" for name in ("code", "scheme", "meaning", "tag")),
        *(f"series.classification.{fact}.{part}" for fact in _FACTS for part in ("values", "tags")),
        *(f"patient_match.{name}" for name in ("outcome", "patient", "means", "question", "order")), "patient_key",
    )  # fmt: skip
    # The contract's own counts, and the DICOM attributes of VR IS (PS3.6).
    number = (
        "revision", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "series.SeriesNumber",
        "series.instances.InstanceNumber", "series.instances.NumberOfFrames", "series.instances.size",
        "completeness.released", "completeness.known", "completeness.declared", "completeness.waiting",
        "completeness.quarantined", "completeness.unattributed", "completeness.foreign_image_sets",
    )  # fmt: skip
    dates = ("StudyDate", "PatientBirthDate")  # VR DA
    return dict.fromkeys(text, Kind.TEXT) | dict.fromkeys(number, Kind.NUMBER) | dict.fromkeys(dates, Kind.DATE)


_ANY = "*"  # stands for a name that the data give, such as a resource type


def _clinical_fields() -> dict[str, Kind]:
    text = (
        "schema", "subject_key", "pipeline", "datastore_id", "subject.kind", "subject.reference", "validation_level",
        "resources.reference", "resources.content_digest", "resources.source", "completeness.state", *_OVERRIDE,
        "study_keys",
    )  # fmt: skip
    states = ("released", "known", "waiting", "quarantined", "parked")
    counts = (f"completeness.{name}.{_ANY}" for name in states)
    return dict.fromkeys(text, Kind.TEXT) | dict.fromkeys(("revision", "resources.line", *counts), Kind.NUMBER)


# By contract schema. A copy, because the contracts' own modules load polars, which reading a pipeline file must not do;
# a test compares the two.
FIELDS: dict[str, dict[str, Kind]] = {
    "airlock.study/1": _study_fields(),
    "airlock.clinical/1": _clinical_fields(),
}


def _check_operand(value: Any) -> Any:
    if isinstance(value, bool | datetime) or not isinstance(value, str | int | float | date):
        raise ValueError("the value must be a text, a number or a date, for example 'CT', 3 or 2026-11-30")  # noqa: TRY004  # pydantic's
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("the value must not be .nan or .inf: write a number, for example 3")
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        raise ValueError(f"the value has more than {MOST_CHARACTERS:,} characters: shorten it")
    return value


@lru_cache(maxsize=1_000)
def _compile(pattern: str) -> SchemaValidator:
    """Return a pattern compiled by Rust's engine, which pydantic includes and whose time is linear in the text.

    Python's engine backtracks. An archive's values are hostile input, and one of them could stop every route.
    """
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def matches(pattern: str, text: str) -> bool:
    """Return whether a pattern that was checked when it was read matches anywhere in a text."""
    return _compile(pattern).isinstance_python(text)


def _check_pattern(text: str) -> str:
    try:
        _compile(text)
    except SchemaError:
        raise ValueError(
            "this is not a regular expression in Rust's syntax, which has no look-around and no back references: "
            "see https://docs.rs/regex/latest/regex/#syntax"
        ) from None
    return text


_Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Operand = Annotated[
    _Text | int | float | date, PlainValidator(_check_operand, json_schema_input_type=_Text | int | float)
]
Pattern = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_check_pattern)]
_RANGES: dict[str, Callable[[Any, Any], bool]] = {
    "gte": operator.ge,
    "gt": operator.gt,
    "lte": operator.le,
    "lt": operator.lt,
}


class Rule(BaseModel):
    """The rule for the contracts that a route takes: a comparison of one field, or a combination of rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    all_: tuple[Rule, ...] | None = Field(
        None, alias="all", min_length=1, max_length=MOST_RULES, description="every one of these rules holds"
    )
    any_: tuple[Rule, ...] | None = Field(
        None, alias="any", min_length=1, max_length=MOST_RULES, description="at least one of these rules holds"
    )
    not_: Rule | None = Field(None, alias="not", description="this rule does not hold")
    field: str | None = Field(None, description="path of the compared field, for example series.Modality")
    equals: Operand | None = Field(None, description="the value is this one")
    in_: tuple[Operand, ...] | None = Field(
        None, alias="in", min_length=1, max_length=10_000, description="the value is one of these"
    )
    regex: Pattern | None = Field(
        None,
        description="regular expression that matches anywhere in the value; ^ and $ match its ends, (?i) ignores case",
    )
    gte: Operand | None = Field(None, description="the value is this number or date, or greater")
    gt: Operand | None = Field(None, description="the value is greater than this number or date")
    lte: Operand | None = Field(None, description="the value is this number or date, or less")
    lt: Operand | None = Field(None, description="the value is less than this number or date")

    @model_validator(mode="after")
    def _refuse_blank_fields(self) -> Rule:
        """Refuse a field without a value: YAML reads it as null, and the rule would match more than it says."""
        for name in sorted(self.model_fields_set):
            if getattr(self, name) is None:
                raise ValueError(f"{name.removesuffix('_')} has no value: give it one, or remove it")
        return self

    @model_validator(mode="after")
    def _require_one_comparison(self) -> Rule:
        combined = [name for name, given in (("all", self.all_), ("any", self.any_), ("not", self.not_)) if given]
        if len(combined) + (self.field is not None) != 1:
            raise ValueError("a rule must have exactly one of all, any, not and field: combine several with all or any")
        asked = {name for name, _ in self._operands()} | ({"regex"} if self.regex else set())
        if combined and asked:
            raise ValueError(f"{', '.join(sorted(asked))} needs a field to compare: move it into a rule of its own")
        if not combined and not asked:
            raise ValueError(
                f"{self.field!r} is not compared with anything: add equals, in, regex, {', '.join(_RANGES)}"
            )
        return self

    def _operands(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and value of each operand, each value of ``in`` by itself; a pattern is none."""
        for name in ("equals", *_RANGES):
            if (given := getattr(self, name)) is not None:
                yield name, given
        for given in self.in_ or ():
            yield "in", given

    def matches(self, contract: Mapping[str, Any]) -> bool:
        """Return whether a contract, read from its JSON, matches a rule that `check_rule` accepted for its schema."""
        if self.all_ is not None:
            return all(rule.matches(contract) for rule in self.all_)
        if self.any_ is not None:
            return any(rule.matches(contract) for rule in self.any_)
        if self.not_ is not None:
            return not self.not_.matches(contract)
        path = str(self.field)
        kind = _find_kind(FIELDS[contract["schema"]], path)
        if kind is None:
            return False
        tests = [*self._tests(kind)]
        found = (value for value in find_values(contract, path) if len(str(value)) <= MOST_CHARACTERS)
        return any(all(test(value) for test in tests) for value in found)

    def _tests(self, kind: Kind) -> Iterator[Callable[[Any], bool]]:
        """Yield the tests that a value must pass."""
        if self.regex is not None:
            pattern = _compile(self.regex)
            yield lambda value: pattern.isinstance_python(str(value))
        if self.equals is not None:
            equal = to_comparable(kind, self.equals)
            yield lambda value: to_comparable(kind, value) == equal
        if self.in_ is not None:
            allowed = frozenset(to_comparable(kind, each) for each in self.in_)
            yield lambda value: to_comparable(kind, value) in allowed
        for name, compares in _RANGES.items():
            if getattr(self, name) is not None:
                yield _range_test(kind, compares, to_comparable(kind, getattr(self, name)))


def _range_test(kind: Kind, compares: Callable[[Any, Any], bool], limit: Any) -> Callable[[Any], bool]:
    def test(value: Any) -> bool:
        found = to_comparable(kind, value)
        return found is not None and compares(found, limit)

    return test


def find_values(contract: Any, path: str) -> Iterator[Any]:
    """Yield the values of a contract at a path, several if the path goes through lists; none if absent."""
    if isinstance(contract, list | tuple):
        for item in contract:
            yield from find_values(item, path)
    elif path:
        name, _, rest = path.partition(".")
        yield from find_values(contract.get(name) if isinstance(contract, dict) else None, rest)
    elif contract is not None:
        yield contract


# PS3.5 section 6.2: DA is YYYYMMDD, formerly YYYY.MM.DD; a DS has 16 characters, an IS 12.
_DATE = re.compile(r"([0-9]{4})([-.]?)([0-9]{2})\2([0-9]{2})")
_NUMBER = re.compile(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?")


def to_comparable(kind: Kind, value: Any) -> str | float | date | None:
    """Return a contract's or a rule's value converted for comparison, or None if it is not of the kind."""
    if kind is Kind.TEXT:
        return value if isinstance(value, str) else None
    if kind is Kind.NUMBER:
        if isinstance(value, int | float):
            return value
        return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value := value.strip(" ")) else None
    if isinstance(value, date):
        return value
    found = _DATE.fullmatch(str(value).strip(" "))
    try:
        return date(int(found[1]), int(found[3]), int(found[4])) if found else None
    except ValueError:  # such as 20260230
        return None


def _find_kind(fields: Mapping[str, Kind], path: str) -> Kind | None:
    """Return the kind of a field by its path; None if contracts have no such field."""
    folder, _, name = path.rpartition(".")
    return fields.get(path) or fields.get(f"{folder}.{_ANY}" if name else "")


def check_rule(rule: Rule, schema: str) -> None:
    """Refuse a rule that does not fit the contracts of a schema.

    Parameters
    ----------
    rule
        A route's rule.
    schema
        The contracts' schema, a key of `FIELDS`.

    Raises
    ------
    ValueError
        If the rule names a field that the contracts do not have, or an operand is of another kind than the field.
    """
    for each in _comparisons(rule, 1):
        _check_comparison(each, schema)


def find_fields(rule: Rule) -> set[str]:
    """Return the paths of the fields that a rule compares."""
    return {str(each.field) for each in _comparisons(rule, 1)}


def _comparisons(rule: Rule, depth: int) -> Iterator[Rule]:
    if depth > DEEPEST:
        raise ValueError(f"rules are nested more than {DEEPEST} levels deep: write them flatter")
    within = [*(rule.all_ or ()), *(rule.any_ or ()), *([rule.not_] if rule.not_ else ())]
    if rule.field is not None:
        yield rule
    for each in within:
        yield from _comparisons(each, depth + 1)


def _check_comparison(rule: Rule, schema: str) -> None:
    fields, path = FIELDS[schema], str(rule.field)
    kind = _find_kind(fields, path)
    if kind is None:
        raise ValueError(f"{schema} has no field {path!r}: {_suggest(path, fields)}")
    for name, given in rule._operands():  # noqa: SLF001  # of this module
        if kind is Kind.TEXT and name in _RANGES:
            raise ValueError(f"{path!r} is a text, which cannot be compared with {name}: use equals, in or regex")
        if to_comparable(kind, given) is None:
            raise ValueError(f"{name} of {path!r} is {given!r}, but the field is a {kind}: {_FIXES[kind]}")


_FIXES = {
    Kind.TEXT: "put it in quotes",
    Kind.NUMBER: "write a number, for example 3",
    Kind.DATE: "write a date, for example 2026-11-30 or '20261130'",
}


def _suggest(path: str, fields: Mapping[str, Kind]) -> str:
    leaf = path.rpartition(".")[2].lower()
    near = [name for name in fields if name.rpartition(".")[2].lower() == leaf]
    near = near or get_close_matches(path, fields, n=3) or [*fields]
    return f"write {' or '.join(near)}" if len(near) <= 3 else f"use one of {', '.join(near)}"
