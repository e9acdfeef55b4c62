"""Sign-off: no document is converted by a version of the profile for which nobody has signed.

The agent that makes a profile is a preview, and its output varies. Before a version is used, a person converts a sample
of the pipeline's documents with it, compares the results, and says which sample that was and how much was covered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airlock.ledger.sign_offs import SCOPE
from airlock.stages.decision_log import decide
from airlock.stages.person_text import find_text_fault, has_letter_or_digit

if TYPE_CHECKING:
    from airlock.ledger import Ledger, SignOff
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from airlock.storage.s3 import S3


class SignOffError(ValueError):
    """A sign-off cannot be recorded; the text has the cause and the fix."""


class UnsignedProfileError(RuntimeError):
    """Nobody has signed for the version of the profile that a pipeline names, or for as much coverage as it asks."""


def sign_off(s3: S3, pipeline: CcdaPipeline, ledger: Ledger, given: SignOff) -> None:
    """Record a sign-off in the ledger, after its copy was written below the pipeline's workspace.

    Raises
    ------
    SignOffError
        If a text is empty or cannot be stored, or the coverage is below what the pipeline requires of each document.
    DecisionNotKeptError
        If the copy cannot be written.
    """
    for what, text in (("The name", given.decided_by), ("The sample", given.sample), ("The reason", given.why)):
        fault = find_text_fault(text) if has_letter_or_digit(text) else "is empty: give one"
        if fault:
            raise SignOffError(f"{what} {fault}.")
    least = pipeline.transformation.min_coverage
    if given.coverage < least:
        raise SignOffError(
            f"The sample's coverage {given.coverage:g} is below transformation.min_coverage {least:g} of pipeline "
            f"{pipeline.name!r}. Improve the profile, publish a version, and sign that one."
        )
    decide(s3, pipeline, ledger, lambda inner: inner.sign_off(pipeline.name, given), SCOPE)


def require_signed(run: Run[CcdaPipeline]) -> SignOff:
    """Return the sign-off of the version that a run's pipeline names.

    Raises
    ------
    UnsignedProfileError
        With the command that records one.
    """
    profile, name = run.pipeline.transformation, run.pipeline.name
    found = run.ledger.last_sign_off(name, profile.profile_id, profile.profile_version)
    if found is None:
        raise UnsignedProfileError(
            f"Nobody has signed for version {profile.profile_version} of profile {profile.profile_id}, so nothing is "
            f"converted. Convert a sample with it, compare the results, and record it: airlock sign-off {name} "
            f"--sample WHICH --coverage SHARE --why REASON. Then clear this task."
        )
    if found.coverage < profile.min_coverage:
        raise UnsignedProfileError(
            f"Version {profile.profile_version} of profile {profile.profile_id} was signed for a sample of which "
            f"{found.coverage:g} was covered, below transformation.min_coverage {profile.min_coverage:g} of today, so "
            f"nothing is converted. Sign again with airlock sign-off, or lower min_coverage. Then clear this task."
        )
    return found
