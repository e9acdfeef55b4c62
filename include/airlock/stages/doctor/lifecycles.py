"""Lifecycle rules that delete or archive what Airlock still needs, and staging that nothing ever deletes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from airlock.stages.doctor.findings import Check, failed, passed, warned
from airlock.stages.doctor.uses import Purpose, group_buckets, list_buckets
from airlock.storage.aws import error_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.uses import Bucket, BucketUse
    from airlock.stages.doctor.world import World

_NOT_READABLE: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # GetObject refuses until somebody restores the object
_LONG: Final = timedelta(days=365)


@dataclass(frozen=True)
class Rule:
    """An enabled rule of a lifecycle.

    Parameters
    ----------
    number
        Its place in the lifecycle, from 1. Its id and prefix may name a patient.
    prefix
        The start of the keys that it is about.
    is_narrow
        Whether it is only about some of these objects, by tags or sizes.
    after
        The age at which objects leave; None if they stay. A date that the rule names counts as no age at all.
    what
        ``deleted``, or the storage class from which they cannot be read.
    deletes
        Whether objects are deleted, at whatever age.
    ends_versions
        Whether old versions are deleted.
    """

    number: int
    prefix: str
    is_narrow: bool
    after: timedelta | None
    what: str
    deletes: bool
    ends_versions: bool

    def covers(self, prefix: str) -> bool:
        """Return whether the rule may be about an object below a prefix."""
        return self.prefix.startswith(prefix) or prefix.startswith(self.prefix)

    def covers_all(self, prefix: str) -> bool:
        """Return whether the rule is about each object below a prefix."""
        return prefix.startswith(self.prefix) and not self.is_narrow


def list_rules(client: Any, bucket: str) -> list[Rule]:
    """Return the enabled rules of a bucket."""
    try:
        rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error_code(error) != "NoSuchLifecycleConfiguration":
            raise
        return []
    return [_read_rule(number, rule) for number, rule in enumerate(rules, start=1) if rule["Status"] == "Enabled"]


def _read_rule(number: int, rule: dict[str, Any]) -> Rule:
    chosen = rule.get("Filter", {})
    chosen = chosen.get("And", chosen)
    expiration = rule.get("Expiration", {})
    leaves = [(expiration, "deleted")]
    leaves += [(one, one["StorageClass"]) for one in rule.get("Transitions", [])]
    ages = [
        (timedelta(days=one["Days"]) if "Days" in one else timedelta(0), what)
        for one, what in leaves
        if ("Days" in one or "Date" in one) and what in {"deleted", *_NOT_READABLE}
    ]
    after, what = min(ages, default=(None, ""))
    return Rule(
        number,
        chosen.get("Prefix", rule.get("Prefix", "")) or "",
        bool(chosen.keys() - {"Prefix"}),
        after,
        what,
        bool(expiration.keys() & {"Days", "Date"}),
        "NoncurrentVersionExpiration" in rule,
    )


def list_checks(world: World) -> Iterator[Check]:
    """Yield the check of each prefix whose objects Airlock needs later."""
    for bucket in group_buckets(list_buckets(world.pipeline)):
        for use in bucket.uses:
            if use.purpose is not Purpose.CONTRACTS:  # how long receivers keep them is their own decision
                yield Check(
                    "bucket.lifecycle",
                    f"{use.field} ({bucket.name})",
                    partial(_check_lifecycle, world, bucket, use),
                    (f"bucket.exists {bucket.title}",),
                    "s3:GetLifecycleConfiguration",
                )


def _check_lifecycle(world: World, bucket: Bucket, use: BucketUse) -> Finding:
    access = world.connect(bucket.connection)
    own = use.uri.join(world.pipeline.name, "") if use.purpose is Purpose.WORKSPACE else use.uri
    rules = [rule for rule in list_rules(access.client("s3"), bucket.name) if rule.covers(own.key)]
    leaving = sorted((rule.after, rule.number, rule) for rule in rules if rule.after is not None)
    for after, number, rule in leaving:
        if use.needed is not None and after > use.needed:
            continue
        return _judge(rule, after, number, use)
    ends = any(rule.deletes and rule.covers_all(own.key) for rule in rules)
    if use.purpose is Purpose.STAGING and not ends and not access.is_local("s3"):
        return warned(
            "No lifecycle rule deletes all that is staged, so that files are paid for twice, for ever.",
            f"Add a rule that deletes it after more than {_days(use.needed)}.",
        )
    return passed("No lifecycle rule takes away what Airlock needs.")


def _judge(rule: Rule, after: timedelta, number: int, use: BucketUse) -> Finding:
    leave = "deleted" if rule.what == "deleted" else f"moved to {rule.what}"
    which = "Some objects are" if rule.is_narrow else "Objects are"
    found = f"{which} {leave} after {after.days} day{'' if after.days == 1 else 's'} (rule {number})"
    if use.needed is None and after >= _LONG and rule.what == "deleted":
        return warned(
            f"{found}: older runs cannot be rebuilt, and their contracts not sent again.",
            "Keep it if that is intended; see docs/rebuild.md.",
        )
    how_long = "as long as the ledger" if use.needed is None else f"for more than {_days(use.needed)}"
    return (warned if rule.is_narrow else failed)(
        f"{found}, but Airlock needs them {how_long}.",
        "Change the rule, or move it to another prefix." if use.needed is None else "Give the rule more days.",
    )


def _days(needed: timedelta | None) -> str:
    hours = (needed or timedelta(0)).total_seconds() / 3600
    return f"{hours / 24:g} days" if hours >= 24 else f"{hours:g} hours"
