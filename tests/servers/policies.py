"""Policies that name principals, as keys and queues have them; `tests.iam_policies` judges what they say to one."""

from __future__ import annotations

import json
from typing import Any

from tests.iam_policies import Policy, listed


def told(document: dict[str, Any], principal: str) -> Policy:
    """Return what a policy says to a principal.

    Parameters
    ----------
    document
        The policy of a key, a queue or a role's trust.
    principal
        The ARN of a role or user, or the name of a service.
    """
    named = [statement for statement in document["Statement"] if _names(statement["Principal"], principal)]
    return Policy.parse("resource", json.dumps({"Statement": [statement | {"Principal": "*"} for statement in named]}))


def _names(principals: Any, principal: str) -> bool:
    if principals == "*":
        return True
    root = ":".join([*principal.split(":")[:5], "root"])  # an account's root stands for all its users and roles
    return bool({principal, root} & {name for names in principals.values() for name in listed(names)})
