"""Policies that name principals, as keys and queues have them; `tests.iam_policies` judges what they say to one."""

from __future__ import annotations

import json
from typing import Any

from tests.iam_policies import Policy, listed


def told(document: dict[str, Any], principal: str, *, through_account: bool = True) -> Policy:
    """Return what a policy says to a principal.

    Parameters
    ----------
    document
        The policy of a key, a queue or a role's trust.
    principal
        The ARN of a role or user, or the name of a service.
    through_account
        Whether what it says to the whole account counts, too.
    """
    names = {principal, root_of(principal)} if through_account else {principal}
    said = [statement for statement in document["Statement"] if _is_said_to(names, statement["Principal"])]
    return Policy.parse("resource", json.dumps({"Statement": [statement | {"Principal": "*"} for statement in said]}))


def root_of(principal: str) -> str:
    """Return the principal that stands for all users and roles of a principal's account."""
    return ":".join([*principal.split(":")[:5], "root"])


def _is_said_to(names: set[str], principals: Any) -> bool:
    return principals == "*" or bool(names & {name for named in principals.values() for name in listed(named)})
