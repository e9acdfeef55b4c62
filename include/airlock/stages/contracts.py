"""The parts that the contracts of all kinds share: how their models behave, and a review decision in a contract."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ContractModel(BaseModel):
    """A contract, or a part of one: closed, frozen, and silent about values in its errors, since they name patients."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ContractOverride(ContractModel):
    """The review decision that released a held subject."""

    reason: str = Field(description="reason code of the hold")
    reasons: tuple[str, ...] = Field(description="reason codes of the findings behind the hold")
    overridden_by: str
    override_reason: str = Field(description="the person's words")
    overridden_at: str = Field(description="ISO 8601")
