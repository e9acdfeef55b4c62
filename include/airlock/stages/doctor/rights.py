"""What IAM lets the workers and the services' roles do, asked by SimulatePrincipalPolicy; nothing is called for it.

The simulation knows the policies of the principal, its permissions boundary and the organization's. It knows neither
bucket policies nor conditions about values that only a real request has.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from airlock.stages.doctor.attempts import CheckUnableError
from airlock.stages.doctor.findings import Check, failed, not_made, passed, warned
from airlock.stages.doctor.identity import caller_id, describe_arn
from airlock.stages.doctor.needed_rights import list_role_needs, list_worker_needs
from airlock.stages.doctor.roles import EXISTS, role_title
from airlock.stages.doctor.uses import list_aws_connections, list_roles
from airlock.stages.doctor.world import Simulation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.needed_rights import Need
    from airlock.stages.doctor.uses import RoleUse
    from airlock.stages.doctor.world import AwsAccess, Simulator, World

_RIGHT: Final = "iam:SimulatePrincipalPolicy"
_LOCAL: Final = "The local stack checks no rights."

_CONVERSIONS: Final = "ccda-transformation-role-policy.json"


class IamSimulator:
    """The simulator of the account, by IAM's SimulatePrincipalPolicy.

    Parameters
    ----------
    access
        AWS by a connection of the account.
    """

    def __init__(self, access: AwsAccess) -> None:
        self._iam = access.client("iam")

    def simulate(
        self, principal: str, actions: Sequence[str], resource: str, context: Mapping[str, str]
    ) -> list[Simulation]:
        """Return for each action whether the principal's own policies allow it on the resource."""
        entries = [
            {"ContextKeyName": name, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for name, value in context.items()
        ]
        pages = self._iam.get_paginator("simulate_principal_policy").paginate(
            PolicySourceArn=principal, ActionNames=list(actions), ResourceArns=[resource], ContextEntries=entries
        )
        return [_read_result(one) for page in pages for one in page["EvaluationResults"]]


def _read_result(one: dict[str, Any]) -> Simulation:
    return Simulation(
        one["EvalActionName"], one["EvalDecision"] == "allowed", tuple(one.get("MissingContextValues", ()))
    )


def list_checks(world: World) -> Iterator[Check]:
    """Yield the simulation of each connection's and each role's rights."""
    for name in list_aws_connections(world.pipeline):
        look = partial(_check_workers, world, name)
        yield Check("rights.workers", name, look, (caller_id(name),), _RIGHT)
    for role in list_roles(world.pipeline):
        title = role_title(role)
        yield Check("rights.role", title, partial(_check_role, world, role), (f"{EXISTS} {title}",), _RIGHT)


def find_principal(access: AwsAccess) -> str:
    """Return the ARN of the user or role behind a connection, as IAM simulates it.

    Raises
    ------
    CheckUnableError
        If it is neither.
    """
    arn = access.caller().arn
    kind, *names = arn.split(":")[5].split("/")
    if kind == "assumed-role":  # its ARN lacks the role's path
        name = names[0]
        return str(access.client("iam").get_role(RoleName=name)["Role"]["Arn"])
    if kind != "user":
        raise CheckUnableError(f"IAM simulates no rights of {describe_arn(arn)}.\nGive the connection a role.")
    return arn


def _check_workers(world: World, connection: str) -> Finding:
    access = world.connect(connection)
    if access.is_local("iam"):
        return not_made(_LOCAL)
    needs = list(list_worker_needs(world, connection))
    return _judge(world.simulator(access), find_principal(access), needs, "iam/worker-policy.json and those beside it")


def _check_role(world: World, role: RoleUse) -> Finding:
    access = world.connect(role.connection)
    if access.is_local("iam"):
        return not_made(_LOCAL)
    needs = list(list_role_needs(world.pipeline, role))
    policies = [_CONVERSIONS] if role.converts else []
    if role.stores:
        policies.append("fhir-import-role-policy.json" if role.service == "healthlake" else "import-role-policy.json")
    return _judge(world.simulator(access), role.arn, needs, f"iam/{' and '.join(policies)}")


def _judge(simulator: Simulator, principal: str, needs: Iterable[Need], policy: str) -> Finding:
    denied: list[str] = []
    unsure: list[str] = []
    allowed = 0
    for need in needs:
        for one in simulator.simulate(principal, need.actions, need.resource, need.context):
            allowed += one.is_allowed
            if not one.is_allowed:
                (unsure if one.missing else denied).append(f"{one.action} on {need.field}")
    if denied:
        return failed(f"IAM does not allow {_join(denied)}.", f"Attach the statements of {policy}.")
    if unsure:
        return warned(
            f"IAM allows {_join(unsure)} only under conditions that the simulation does not know.",
            "Look at the conditions of its policies.",
        )
    return passed(f"IAM allows the {allowed} actions that the pipeline needs.")


def _join(rows: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(rows))
