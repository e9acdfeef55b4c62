"""Rules: which contracts a route takes, by the values of their fields.

A rule is one comparison of one field, or ``all``, ``any`` or ``not`` of other rules. A field is named by its path in
the contract, as ``StudyDate`` or ``series.Modality``; where lists lie on the way, one value that fulfils the whole
comparison is enough. An absent value fulfils none.
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

MOST_CHARACTERS = 4_096  # of a value or an operand; a longer value fulfils no comparison
MOST_RULES = 100  # beside each other
DEEPEST = 8  # rules within rules


class Kind(StrEnum):
    """How a field's values compare."""

    TEXT = "text"
    NUMBER = "number"
    DATE = "date"


# What a person said of a hold; both kinds of contract have it.
_OVERRIDE = tuple(
    f"override.{name}" for name in ("reason", "reasons", "overridden_by", "override_reason", "overridden_at")
)


def _study_fields() -> dict[str, Kind]:
    text = (
        "schema", "study_key", "pipeline", "datastore_id", "StudyInstanceUID", "StudyTime", "StudyID",
        "StudyDescription", "AccessionNumber", "RequestedProcedureID", "ReferringPhysicianName", "InstitutionName",
        "PatientID", "IssuerOfPatientID", "PatientName", "PatientSex", "ModalitiesInStudy", "series.SeriesInstanceUID",
        "series.Modality", "series.SeriesDescription", "series.BodyPartExamined", "series.StationName",
        "series.image_set_ids", "series.instances.SOPInstanceUID", "series.instances.SOPClassUID",
        "series.instances.TransferSyntaxUID", "series.instances.image_set_id", "series.instances.source",
        "series.instances.etag", "fhir.datastore_id", "fhir.Patient", "fhir.ImagingStudy", "fhir.Endpoint",
        "fhir.ServiceRequest", *_OVERRIDE,
    )  # fmt: skip
    # Beside the contract's own counts the DICOM attributes of VR IS (PS3.6).
    number = (
        "revision", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "series.SeriesNumber",
        "series.instances.InstanceNumber", "series.instances.NumberOfFrames", "series.instances.size",
    )  # fmt: skip
    dates = ("StudyDate", "PatientBirthDate")  # VR DA
    return dict.fromkeys(text, Kind.TEXT) | dict.fromkeys(number, Kind.NUMBER) | dict.fromkeys(dates, Kind.DATE)


def _clinical_fields() -> dict[str, Kind]:
    text = (
        "schema", "subject_key", "pipeline", "datastore_id", "subject.kind", "subject.reference", "validation_level",
        "resources.reference", "resources.content_digest", "resources.source",
        *_OVERRIDE,
    )  # fmt: skip
    return dict.fromkeys(text, Kind.TEXT) | dict.fromkeys(("revision", "resources.line"), Kind.NUMBER)


# By the contract's schema. Written out, since the contracts' own module loads polars, which reading a pipeline file
# must not; a test keeps them alike.
FIELDS: dict[str, dict[str, Kind]] = {
    "airlock.study/1": _study_fields(),
    "airlock.clinical/1": _clinical_fields(),
}


def _operand(value: Any) -> Any:
    if isinstance(value, bool | datetime) or not isinstance(value, str | int | float | date):
        raise ValueError("a value to compare with is a text, a number or a date, as 'CT', 3 or 2026-11-30")  # noqa: TRY004  # pydantic's
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no value is .nan or .inf: write a number, as 3")
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        raise ValueError(f"a value to compare with has {MOST_CHARACTERS:,} characters at most")
    return value


@lru_cache(maxsize=1_000)
def _matcher(pattern: str) -> SchemaValidator:
    """Compile a pattern with Rust's engine, which pydantic brings: its time is linear in the text, whatever both say.

    Python's own engine backtracks: an archive's values are hostile input, and one of them could stop every route.
    """
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _pattern(text: str) -> str:
    try:
        _matcher(text)
    except SchemaError:
        raise ValueError(
            "this is no regular expression in Rust's syntax, which has no look-around and no back references, since "
            "those could take forever: see https://docs.rs/regex/latest/regex/#syntax"
        ) from None
    return text


_Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Operand = Annotated[_Text | int | float | date, PlainValidator(_operand, json_schema_input_type=_Text | int | float)]
Pattern = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_pattern)]
_RANGES: dict[str, Callable[[Any, Any], bool]] = {
    "gte": operator.ge,
    "gt": operator.gt,
    "lte": operator.le,
    "lt": operator.lt,
}


class Rule(BaseModel):
    """Which contracts a route takes: a comparison of one field, or a combination of rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    all_: tuple[Rule, ...] | None = Field(
        None, alias="all", min_length=1, max_length=MOST_RULES, description="every one of these rules holds"
    )
    any_: tuple[Rule, ...] | None = Field(
        None, alias="any", min_length=1, max_length=MOST_RULES, description="at least one of these rules holds"
    )
    not_: Rule | None = Field(None, alias="not", description="this rule does not hold")
    field: str | None = Field(None, description="path of what is compared, as series.Modality")
    equals: Operand | None = Field(None, description="the value is this one")
    in_: tuple[Operand, ...] | None = Field(
        None, alias="in", min_length=1, max_length=10_000, description="the value is one of these"
    )
    regex: Pattern | None = Field(
        None, description="is found somewhere in the value; ^ and $ tie it to the ends, (?i) lets case differ"
    )
    gte: Operand | None = Field(None, description="the value is this number or date, or above")
    gt: Operand | None = Field(None, description="the value is above this number or date")
    lte: Operand | None = Field(None, description="the value is this number or date, or below")
    lt: Operand | None = Field(None, description="the value is below this number or date")

    @model_validator(mode="after")
    def _says_what_it_names(self) -> Rule:
        """Refuse what is named and left blank: in YAML that reads as if it were not there, and the rule takes more."""
        for name in sorted(self.model_fields_set):
            if getattr(self, name) is None:
                raise ValueError(f"{name.removesuffix('_')} stands there without a value: give it one, or remove it")
        return self

    @model_validator(mode="after")
    def _is_one_thing(self) -> Rule:
        combined = [name for name, given in (("all", self.all_), ("any", self.any_), ("not", self.not_)) if given]
        if len(combined) + (self.field is not None) != 1:
            raise ValueError("a rule has exactly one of all, any, not and field: combine several with all or any")
        asked = {name for name, _ in self._operands()} | ({"regex"} if self.regex else set())
        if combined and asked:
            raise ValueError(f"{', '.join(sorted(asked))} needs a field to compare: move it into a rule of its own")
        if not combined and not asked:
            raise ValueError(f"nothing is asked of {self.field!r}: add equals, in, regex, {', '.join(_RANGES)}")
        return self

    def _operands(self) -> Iterator[tuple[str, Any]]:
        """Yield what the field is compared with, except a pattern; each value of ``in`` by itself."""
        for name in ("equals", *_RANGES):
            if (given := getattr(self, name)) is not None:
                yield name, given
        for given in self.in_ or ():
            yield "in", given

    def matches(self, contract: Mapping[str, Any]) -> bool:
        """Say whether a contract, as its JSON is read, fulfils the rule, which `check` has accepted for its schema."""
        if self.all_ is not None:
            return all(rule.matches(contract) for rule in self.all_)
        if self.any_ is not None:
            return any(rule.matches(contract) for rule in self.any_)
        if self.not_ is not None:
            return not self.not_.matches(contract)
        path = str(self.field)
        kind = FIELDS[contract["schema"]][path]
        tests = [*self._tests(kind)]
        found = (value for value in values(contract, path) if len(str(value)) <= MOST_CHARACTERS)
        return any(all(test(value) for test in tests) for value in found)

    def _tests(self, kind: Kind) -> Iterator[Callable[[Any], bool]]:
        """Yield what a single value has to pass."""
        if self.regex is not None:
            pattern = _matcher(self.regex)
            yield lambda value: pattern.isinstance_python(str(value))
        if self.equals is not None:
            equal = read(kind, self.equals)
            yield lambda value: read(kind, value) == equal
        if self.in_ is not None:
            allowed = frozenset(read(kind, each) for each in self.in_)
            yield lambda value: read(kind, value) in allowed
        for name, compares in _RANGES.items():
            if getattr(self, name) is not None:
                yield _bound(kind, compares, read(kind, getattr(self, name)))


def _bound(kind: Kind, compares: Callable[[Any, Any], bool], limit: Any) -> Callable[[Any], bool]:
    def test(value: Any) -> bool:
        found = read(kind, value)
        return found is not None and compares(found, limit)

    return test


def values(contract: Any, path: str) -> Iterator[Any]:
    """Yield what a contract has at a path, every one where lists lie on the way; nothing that is absent."""
    if isinstance(contract, list | tuple):
        for item in contract:
            yield from values(item, path)
    elif path:
        name, _, rest = path.partition(".")
        yield from values(contract.get(name) if isinstance(contract, dict) else None, rest)
    elif contract is not None:
        yield contract


# PS3.5 section 6.2: DA is YYYYMMDD, of old YYYY.MM.DD; a DS has 16 characters, an IS 12.
_DATE = re.compile(r"([0-9]{4})([-.]?)([0-9]{2})\2([0-9]{2})")
_NUMBER = re.compile(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?")


def read(kind: Kind, value: Any) -> str | float | date | None:
    """Return a value, of a contract or of a rule, as what it is compared as; None where it is nothing of the kind."""
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
    except ValueError:  # as of 20260230
        return None


def check(rule: Rule, schema: str) -> None:
    """Refuse a rule that contracts of a schema could never fulfil as it is meant.

    Parameters
    ----------
    rule
        Of a route.
    schema
        Of the contracts, a key of `FIELDS`.

    Raises
    ------
    ValueError
        If it names a field that they do not have, or compares it with what its values are not; with the fix.
    """
    for each in _comparisons(rule, 1):
        _check_comparison(each, schema)


def _comparisons(rule: Rule, depth: int) -> Iterator[Rule]:
    if depth > DEEPEST:
        raise ValueError(f"rules lie more than {DEEPEST} deep in each other: write them flatter")
    within = [*(rule.all_ or ()), *(rule.any_ or ()), *([rule.not_] if rule.not_ else ())]
    if rule.field is not None:
        yield rule
    for each in within:
        yield from _comparisons(each, depth + 1)


def _check_comparison(rule: Rule, schema: str) -> None:
    fields, path = FIELDS[schema], str(rule.field)
    if path not in fields:
        raise ValueError(f"{schema} has no field {path!r}: {_advice(path, fields)}")
    kind = fields[path]
    for name, given in rule._operands():  # noqa: SLF001  # of this module
        if kind is Kind.TEXT and name in _RANGES:
            raise ValueError(f"{path!r} is a text, which has no {name}: ask with equals, in or regex")
        if read(kind, given) is None:
            raise ValueError(f"{name} of {path!r} is {given!r}, but the field is a {kind}: {_FIXES[kind]}")


_FIXES = {
    Kind.TEXT: "put it in quotes",
    Kind.NUMBER: "write a number, as 3",
    Kind.DATE: "write a date, as 2026-11-30 or '20261130'",
}


def _advice(path: str, fields: Mapping[str, Kind]) -> str:
    leaf = path.rpartition(".")[2].lower()
    near = [name for name in fields if name.rpartition(".")[2].lower() == leaf]
    near = near or get_close_matches(path, fields, n=3) or [*fields]
    return f"write {' or '.join(near)}" if len(near) <= 3 else f"those there are {', '.join(near)}"
