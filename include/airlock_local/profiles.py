"""The local stack signs for the conversion profile that it makes itself, so that make run can show a conversion."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airlock.ledger import Ledger, SignOff
from airlock.pipelines import CcdaPipeline
from airlock_local.environment import LOCAL_CONNECTION, USER
from airlock_local.progress import say

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock_local.settings import Settings

# There is no sample, so its coverage is what the pipeline asks for; each document's own is compared in every run.
SAMPLE = "none: the local emulator converts, not AWS's agent"


def sign_profile(settings: Settings, pipeline: Pipeline) -> None:
    """Sign for the profile's version of a pipeline that converts on the local stack, unless somebody has; say so."""
    if not isinstance(pipeline, CcdaPipeline) or pipeline.healthlake.aws_conn_id != LOCAL_CONNECTION:
        return
    version = pipeline.transformation.profile_id, pipeline.transformation.profile_version
    least = pipeline.transformation.min_coverage
    with Ledger.open(settings.ledger_url) as ledger:
        if ledger.last_sign_off(pipeline.name, *version) is None:
            why = "make run: a profile of the local stack"
            ledger.sign_off(pipeline.name, SignOff(*version, SAMPLE, least, USER, why, datetime.now(UTC)))
            say(f"make run signed for version {version[1]} of the local profile. On a real account, a person does.")
