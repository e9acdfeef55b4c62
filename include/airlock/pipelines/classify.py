"""``classify:`` of an imaging pipeline: rules that set labels on studies and series, for routes to match."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from airlock.pipelines.rules import Rule, check_rule, find_fields
from airlock.pipelines.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

# They change while a contract's content stays, or depend on labels themselves.
_UNSETTLED = (
    "revision", "labels", "series.labels", "completeness", "override", "fhir", "patient_match", "patient_key",
)  # fmt: skip


class Classify(Settings):
    """One rule, and the label that it sets."""

    label: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$", description="lower-case letters, digits, '.', '-' and '_'"
    )
    of: Literal["study", "series"] = Field(
        "study", description="what gets the label; a rule about series is asked about each one by itself"
    )
    match: Rule = Field(description="rule for what gets the label, see docs/routing.md")


def check_classify(rules: Sequence[Classify], schema: str) -> None:
    """Refuse rules on fields that contracts do not have, or that do not describe the images.

    Raises
    ------
    ValueError
        With the number of the rule, since several rules may set one label.
    """
    for number, rule in enumerate(rules):
        try:
            check_rule(rule.match, schema)
        except ValueError as error:
            raise ValueError(f"classify.{number}.match: {error}") from None
        for field in find_fields(rule.match):
            if any(field == name or field.startswith(f"{name}.") for name in _UNSETTLED):
                raise ValueError(
                    f"classify.{number}.match: {field!r} may change while the images stay: name a field that comes "
                    f"from their headers"
                )
