"""A guard that also judges who uses the KMS keys of buckets: S3 asks KMS in the caller's name.

Which requests use a key is in `tests.iam_table`. A key may be used by whom its policy names, and by whom IAM allows it
if the key's policy leaves that to the account, which is its root; a Deny of either counts (AWS KMS developer guide,
"Determining access to AWS KMS keys").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tests.iam_policies import Request, allow
from tests.iam_table import OPERATIONS, READ_KEY
from tests.servers.guarded_s3 import Guard, Refusal
from tests.servers.policies import root_of, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.iam_policies import Policy
    from tests.servers.guarded_s3 import Call

_THROUGH_S3 = {"kms:ViaService": "s3.us-east-1.amazonaws.com"}
NOBODY = "neither the key's policy nor the caller's allows it"


@dataclass(frozen=True)
class Key:
    """A KMS key.

    Parameters
    ----------
    arn
        Its ARN.
    policy
        Its policy, as a document.
    """

    arn: str
    policy: dict[str, Any]

    def lets(self, caller: str, identity: list[Policy], action: str, context: dict[str, str]) -> bool:
        """Return whether a role or user may use the key.

        Parameters
        ----------
        caller
            The ARN of the role or user.
        identity
            The policies of the caller.
        action, context
            As in ``kms:Decrypt``, and the condition keys of the request.
        """
        asked = Request(action, self.arn, context)
        itself = told(self.policy, caller, through_account=False)
        account = told(self.policy, root_of(caller))
        if any(policy.find("Deny", asked) for policy in (itself, account, *identity)):
            return False
        return allow([itself], asked) or (allow([account], asked) and allow(identity, asked))


@dataclass
class KeyGuard(Guard):
    """Judges by the keys of buckets, too.

    Attributes
    ----------
    caller
        The ARN of the role whose policies `identity` has.
    keys
        The key of each bucket that has one: S3 encrypts with it what names no key.
    """

    caller: str = ""
    keys: dict[str, Key] = field(default_factory=dict)

    def judge(self, call: Call) -> Refusal | None:
        """Return why a request is refused; None if it is not."""
        return super().judge(call) or self._judge_keys(call)

    def _judge_keys(self, call: Call) -> Refusal | None:
        context = _THROUGH_S3 | {"kms:CallerAccount": self.caller.split(":")[4]}
        for action, bucket in _used_keys(call):
            key = self.keys.get(bucket)
            if key is not None and not key.lets(self.caller, self.identity or [], action, context):
                self.refused.append(Refusal(call.operation, action, key.arn, NOBODY))
                return self.refused[-1]
        return None


def _used_keys(call: Call) -> Iterator[tuple[str, str]]:
    """Yield what a request does with keys, each with the bucket whose key it is."""
    source = unquote(call.headers.get("x-amz-copy-source", "")).lstrip("/").partition("/")[0]
    for right in OPERATIONS[call.operation]:
        if right.on != "key":
            continue
        reads_source = right.action == READ_KEY and bool(source)
        if reads_source:
            yield right.action, source
        if not reads_source or call.operation == "s3:UploadPartCopy":  # parts that are there are decrypted at the end
            yield right.action, call.bucket
