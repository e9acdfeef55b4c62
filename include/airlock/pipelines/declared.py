"""``audit.declared_count``: what follows if a study has fewer instances than its source declares."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from airlock.pipelines.settings import ObjectUri, Settings

_ON_FEWER = "hold the study, or release it and note in its contract that it is partial"


class DeclaredCount(Settings):
    """What follows if fewer instances of a study are known than its source declares."""

    manifest: Literal["hold", "warn"] = Field(
        "hold", description=f"fewer than the delivery manifest or the source's list declares: {_ON_FEWER}"
    )
    header: Literal["hold", "warn"] = Field(
        "warn",
        description=f"fewer than a header declares (NumberOfStudyRelatedInstances, often wrong): {_ON_FEWER}",
    )
    list_uri: ObjectUri | None = Field(
        None,
        description="s3://bucket/key of the source's own list of its studies: a CSV file with the columns "
        "StudyInstanceUID and NumberOfStudyRelatedInstances",
    )
    wait_hours: float = Field(
        0,
        ge=0,
        le=24 * 366,
        description="how long a study that is to be held waits for its other instances before `then` applies, counted "
        "from its newest file; a study that waits is not reviewed",
    )
    then: Literal["hold", "release_partial"] | None = Field(
        None,
        description="what follows after wait_hours, which require it: hold the study until a person decides, or "
        "release it as partial",
    )
    why: str = Field(
        "",
        max_length=2_000,
        description="with header: hold, the reason to trust the headers; a plan asks for it if fewer than 95 % of the "
        "studies have as many instances as their headers declare",
    )

    @model_validator(mode="after")
    def _require_what_follows(self) -> DeclaredCount:
        if self.wait_hours and self.then is None:
            raise ValueError(
                f"wait_hours is {self.wait_hours:g}, but nothing says what follows: set then to hold or release_partial"
            )
        if self.then == "release_partial" and not self.wait_hours:
            raise ValueError(
                "then: release_partial needs wait_hours: set wait_hours, or set manifest or header to warn to release "
                "at once"
            )
        return self
