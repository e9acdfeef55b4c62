"""The machine: its clock, compared with S3's, whom it trusts, and its room for temporary files."""

from __future__ import annotations

import tempfile
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError, SSLError

from airlock.stages.doctor.attempts import CheckUnableError
from airlock.stages.doctor.deployment import DEFINED
from airlock.stages.doctor.findings import Check, failed, passed, warned
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.world import World

_REFUSED: Final = 900.0  # seconds; S3 refuses a request with a greater difference (RequestTimeTooSkewed)
_WRONG: Final = 300.0  # half of the usual life of a token, and more than any quiet period
_DOUBTFUL: Final = 30.0
_PER_MILLION: Final = 10**9  # bytes of temporary files per million arrivals (docs/operations.md, "Large archives")
_ARRIVALS: Final = 1_000_000  # of a run whose pipeline has no limit
_LEAST: Final = 100 * 10**6  # bytes


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of the machine."""
    needs = (f"{DEFINED} {world.pipeline.source.aws_conn_id}",)
    yield Check("machine.clock", "compared with S3", partial(_check_clock, world), needs)
    yield Check("machine.authorities", "compared with S3", partial(_check_authorities, world), needs)
    yield Check("machine.temporary_space", "TMPDIR", partial(_check_space, world))


def _ask_s3(world: World) -> Any:
    source = world.pipeline.source
    client = world.connect(source.aws_conn_id).client("s3")
    try:
        return client.head_bucket(Bucket=S3Uri.parse(source.uri).bucket)
    except ClientError as error:  # a refusal is an answer, too
        return error.response


def _check_authorities(world: World) -> Finding:
    try:
        _ask_s3(world)
    except SSLError:
        return failed(
            "S3, or a proxy before it, has a certificate that this machine does not trust.",
            "Name its authority in AWS_CA_BUNDLE on every component (docs/operations.md, Certificate authorities).",
        )
    except BotoCoreError:  # of the network: several are also errors of the system
        raise
    except OSError as error:  # of the file that the variable or the connection names
        return failed(
            f"The file of certificate authorities cannot be read ({type(error).__name__}).",
            "Correct AWS_CA_BUNDLE, or verify in the extra of the connection.",
        )
    return passed("S3 answers, and what certificate it has is trusted.")


def _check_clock(world: World) -> Finding:
    before = world.now()
    answer = _ask_s3(world)
    after = world.now()
    date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    if not date:
        raise CheckUnableError("S3's answer has no date.\nCompare the clock with another one.")
    theirs = parsedate_to_datetime(date)
    off = max((before - theirs).total_seconds() - 1, (theirs - after).total_seconds(), 0.0)  # it has whole seconds
    if off > _WRONG:
        refused = ", and S3 refuses more than 15 minutes" if off <= _REFUSED else ", so S3 refuses every request"
        return failed(f"The clock is {off:,.0f} seconds off{refused}.", "Synchronize it (NTP).")
    if off > _DOUBTFUL:
        return warned(
            f"The clock is {off:,.0f} seconds off; quiet periods are measured with it.", "Synchronize it (NTP)."
        )
    return passed("The clock is right.")


def _check_space(world: World) -> Finding:
    limits = world.pipeline.wave_limits
    arrivals = limits[0] if limits is not None else _ARRIVALS
    needed = _PER_MILLION * arrivals // 1_000_000
    try:
        with tempfile.TemporaryFile(dir=world.temporary) as file:
            file.write(b"x")
        free = world.free_bytes(world.temporary)
    except OSError as error:
        return failed(
            f"Nothing can be written to the folder of temporary files ({error.strerror}).",
            "Name a folder in TMPDIR that the workers can write to; in a read-only container mount a volume there.",
        )
    room = f"{free / 10**9:.1f} GB are free; a run of {arrivals:,} arrivals needs {needed / 10**9:.1f} GB"
    if free < _LEAST:
        return failed(f"{room}.", "Free space, or name another folder in TMPDIR.")
    if free < needed:
        return warned(f"{room}.", "Give TMPDIR more room, or lower waves.objects.")
    return passed(f"{room}.")
