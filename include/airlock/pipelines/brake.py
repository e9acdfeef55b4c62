"""``audit.brake`` of a pipeline file: the shares of bad numbers at which a run stops and asks a person."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from airlock.pipelines.settings import Settings

BRAKE = "when a run with absurd numbers stops and asks a person, see below; off: never"


class Brake(Settings):
    """The shares at which a run stops, before import or before route, and asks whether to go on."""

    least_arrivals: int = Field(
        500,
        ge=10,
        description="smallest run that is stopped: its files, or in a clinical pipeline its resources and other lines",
    )
    unread: float = Field(0.02, gt=0, le=1, description="before import, highest share that parse could not read")
    one_reason: float = Field(
        0.10, gt=0, le=1, description="before import, highest share that is quarantined for the same reason"
    )
    waiting: float = Field(
        0.05,
        gt=0,
        le=1,
        description="before import, highest share that would be parked for one resource type; only clinical pipelines",
    )
    held: float = Field(
        0.20,
        gt=0,
        le=1,
        description="before route, highest share that is held; what only waits for a review or for its publication is "
        "not counted",
    )
    times_median: float | None = Field(
        5,
        gt=1,
        le=1_000,
        description="a site with at least least_arrivals also stops the run at this multiple of its median share of "
        "the last 14 nights, from half of the limit above on; null: never. Not in clinical pipelines, whose nights are "
        "counted in files",
    )
    answer_hours: float = Field(
        7 * 24, gt=0, le=90 * 24, description="how long the run waits for the answer; then it is stopped"
    )


def _read_switch(value: Any, validate: ValidatorFunctionWrapHandler) -> Brake | Literal["off"]:
    """Return the limits, or off; YAML 1.1 makes false and true of ``off`` and ``on``.

    Raises
    ------
    ValidationError
        Of the limits alone, if these are given: not also that they are not off.
    ValueError
        If another word is given.
    """
    words = {False: "off", True: {}}
    known = words[value] if isinstance(value, bool) else value
    if isinstance(known, dict):
        return Brake.model_validate(known)
    try:
        return cast("Brake | Literal['off']", validate(known))
    except ValidationError:
        raise ValueError("write off, on or the limits, for example {unread: 0.05}") from None


BrakeSetting = Annotated[Brake | Literal["off"], WrapValidator(_read_switch)]
