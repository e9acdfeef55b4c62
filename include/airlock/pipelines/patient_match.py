"""``publish.patient_match``: the rules by which the Patient of a study is found among those of the data store.

The reasons of the defaults are in docs/one-patient.md.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, model_validator

from airlock.pipelines.rules import Pattern
from airlock.pipelines.settings import ObjectUri, Settings

# Numbers that stand for "not known" in archives: one digit repeated, the digits in order, and words of operators.
PLACEHOLDER_IDS = (
    r"^[^\p{L}\p{N}]*$",
    (
        r"^([ ._-]*0)+$|^([ ._-]*1){4,}$|^([ ._-]*2){4,}$|^([ ._-]*3){4,}$|^([ ._-]*4){4,}$|^([ ._-]*5){4,}$|"
        r"^([ ._-]*6){4,}$|^([ ._-]*7){4,}$|^([ ._-]*8){4,}$|^([ ._-]*9){3,}$"
    ),
    r"^0?1234(5(6(7(8(90?)?)?)?)?)?$",
    r"(?i)^(n/?a|nil|no[ _-]?id|none|null|qa|x{3,})$",
    (
        r"(?i)^((anon|anonym(ous|i[sz]ed)?|de-?identified|demo|doe|dummy|emergency|female|jane|john|male|no[ _-]?name|"
        r"patient|phantom|sample|temp|test|tmp|trauma|unbekannt|unidentified|unk|unknown)[ _.,#^-]*)+[0-9]*$"
    ),
)
# Days that systems store where they know none: those that DICOM and FHIR converters, VMS and RIS tables begin with.
PLACEHOLDER_DATES = (
    date(1, 1, 1),
    date(1111, 11, 11),
    date(1753, 1, 1),
    date(1800, 1, 1),
    date(1858, 11, 17),
    date(1899, 12, 30),
    date(1899, 12, 31),
    date(1900, 1, 1),
    date(1901, 1, 1),
)


class IdentifierRule(Settings):
    """A study is of the one Patient that has its PatientID as active identifier of this system."""

    type: Literal["identifier"]
    system: str = Field(
        min_length=1, description="Identifier.system of the PatientID, one of the systems in issuer_systems"
    )


class CrosswalkRule(Settings):
    """Merges that the archive's headers do not know: a study under an old number is looked for under the new one."""

    type: Literal["crosswalk"]
    uri: ObjectUri = Field(
        description="s3://bucket/key of a CSV file with the columns old_system, old_id, new_system, new_id, effective "
        "(a date; later ones do not count yet) and source"
    )


class OrderRule(Settings):
    """The orders of one site: an AccessionNumber is unique within a site only."""

    type: Literal["order"]
    site: str = Field("", description="the site, as source.site_pattern names it; empty if the source is one site")
    system: str = Field(min_length=1, description="Identifier.system of the AccessionNumber in the site's orders")


MatchRule = Annotated[IdentifierRule | CrosswalkRule | OrderRule, Field(discriminator="type")]


class PatientMatch(Settings):
    """How the Patient of a study is found in HealthLake; birth dates are always compared."""

    rules: tuple[MatchRule, ...] = Field(
        min_length=1, max_length=100, description="the rules, each with its type: identifier, crosswalk or order"
    )
    placeholder_ids: tuple[Pattern, ...] = Field(
        PLACEHOLDER_IDS,
        description="regular expressions in Rust's syntax for PatientIDs that name nobody: they match no Patient and "
        "join no two studies",
    )
    placeholder_dates: tuple[date, ...] = Field(
        PLACEHOLDER_DATES, description="birth dates that count as absent, on either side"
    )
    order_days: int = Field(
        30,
        ge=0,
        le=3_660,
        description="most days between an order and StudyDate; an AccessionNumber may be used again later",
    )

    @property
    def systems(self) -> frozenset[str]:
        """The systems of identifiers that match."""
        return frozenset(rule.system for rule in self.rules if isinstance(rule, IdentifierRule))

    @property
    def crosswalk(self) -> str | None:
        """The address of the crosswalk."""
        return next((rule.uri for rule in self.rules if isinstance(rule, CrosswalkRule)), None)

    @property
    def order_systems(self) -> dict[str, str]:
        """The system of AccessionNumbers by site."""
        return {rule.site: rule.system for rule in self.rules if isinstance(rule, OrderRule)}

    @model_validator(mode="after")
    def _require_distinct_rules(self) -> PatientMatch:
        if not self.systems:
            raise ValueError("rules has no rule of type identifier, so nothing could match: add one")
        if sum(isinstance(rule, CrosswalkRule) for rule in self.rules) > 1:
            raise ValueError("rules has more than one crosswalk: join the files")
        orders = [rule.site for rule in self.rules if isinstance(rule, OrderRule)]
        twice = sorted({site for site in orders if orders.count(site) > 1})
        if twice:
            raise ValueError(f"rules has two rules of type order for the site {twice[0]!r}: remove one")
        return self

    def check_systems(self, known: frozenset[str]) -> None:
        """Refuse a rule for a system that no issuer has.

        Raises
        ------
        ValueError
            With the systems that there are.
        """
        unknown = sorted(self.systems - known)
        if unknown:
            there = ", ".join(sorted(known)) or "none"
            raise ValueError(
                f"patient_match: no issuer has the system {unknown[0]!r} (there are: {there}): name the issuer of such "
                f"PatientIDs in issuer_systems, or correct the rule"
            )

    def check_sites(self, *, has_sites: bool) -> None:
        """Refuse order rules that do not fit the source.

        Raises
        ------
        ValueError
            If orders of several sites could be mixed up, or a rule names a site of a source that is one site.
        """
        named = self.order_systems.keys() - {""}
        if has_sites and not named:
            raise ValueError(
                "publish.patient_match: the source has several sites (source.site_pattern), and an AccessionNumber is "
                "unique within one only: add a rule of type order for each site, with the system of its orders"
            )
        if named and not has_sites:
            raise ValueError(
                f"publish.patient_match: a rule of type order names the site {min(named)!r}, but the source is one "
                f"site: set source.site_pattern, or remove site from the rule"
            )
