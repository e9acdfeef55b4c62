"""The amazon provider calls these classes internal: an upgrade that changes them must fail here first."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook, AwsGenericHook
from airflow.providers.amazon.aws.links.base_aws import BASE_AWS_CONSOLE_LINK, BaseAwsLink
from airflow.providers.amazon.aws.operators.base_aws import AwsBaseOperator
from airflow.providers.amazon.aws.sensors.base_aws import AwsBaseSensor
from airflow.providers.amazon.aws.triggers.base import AwsBaseWaiterTrigger
from airflow.providers.amazon.aws.utils import validate_execute_complete_event
from airflow.providers.amazon.aws.utils.mixins import AwsHookType, aws_template_fields
from airflow.providers.amazon.aws.utils.waiter_with_logging import RETRIABLE_ERROR_CODES, async_wait
from airflow.sdk.exceptions import AirflowException

import healthaws
from healthaws import exceptions

README = Path(__file__).parents[3] / "deploy/provider/README.md"
BELOW_HOOKS = ("fhir", "fhir_json", "jobs", "outcomes", "refusals", "replies")
AWS_PARAMETERS = {"aws_conn_id", "region_name", "verify", "botocore_config"}


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


@pytest.mark.parametrize("base", [AwsBaseOperator, AwsBaseSensor, AwsBaseWaiterTrigger])
def test_bases_take_the_connection_settings(base: type) -> None:
    assert parameters(base.__init__) >= AWS_PARAMETERS  # type: ignore[misc]


def test_waiter_trigger() -> None:
    fields = {"serialized_fields", "waiter_name", "waiter_args", "failure_message", "status_message", "status_queries"}
    fields |= {"return_key", "return_value", "waiter_delay", "waiter_max_attempts"}
    assert parameters(AwsBaseWaiterTrigger.__init__) >= fields
    assert parameters(AwsBaseWaiterTrigger._event_from_exception) == {"self", "error"}


def test_hook() -> None:
    assert parameters(AwsBaseHook.get_waiter) >= {"waiter_name", "deferrable", "client"}
    for name in (
        "waiter_path",
        "conn",
        "conn_region_name",
        "conn_partition",
        "get_async_conn",
        "get_session",
        "conn_client_meta",
    ):
        assert hasattr(AwsBaseHook, name)


def test_async_wait() -> None:
    assert list(inspect.signature(async_wait).parameters) == [
        "waiter",
        "waiter_delay",
        "waiter_max_attempts",
        "args",
        "failure_message",
        "status_message",
        "status_args",
    ]
    assert "ServiceQuotaExceededException" not in RETRIABLE_ERROR_CODES, "then our patient waiter is not needed"


def test_link() -> None:
    assert parameters(BaseAwsLink.persist) >= {"context", "operator", "region_name", "aws_partition"}
    assert BASE_AWS_CONSOLE_LINK == "https://console.{aws_domain}"


def test_functions() -> None:
    assert AwsHookType.__bound__ is AwsGenericHook
    assert aws_template_fields("x") == ("aws_conn_id", "region_name", "verify", "x")
    assert validate_execute_complete_event({"status": "success"}) == {"status": "success"}


def test_package_imports_nothing_of_this_project() -> None:
    for module in Path(healthaws.__path__[0]).rglob("*.py"):
        source = module.read_text()
        assert "airlock" not in source.lower(), module
        assert "localaws" not in source, module


def test_the_readme_lists_what_is_imported_of_airflow() -> None:
    """The table is the whole surface: a name that is new in the code is a decision, and stands there first."""
    table = re.findall(r"^\| `(airflow[\w.]*)` \| (.+) \|$", README.read_text(), re.MULTILINE)
    listed = {(module, name) for module, names in table for name in re.findall(r"`(\w+)`", names)}
    assert listed == {
        found for module in Path(healthaws.__path__[0]).rglob("*.py") for found in _imports_of_airflow(module)
    }


def _imports_of_airflow(module: Path) -> set[tuple[str, str]]:
    nodes = list(ast.walk(ast.parse(module.read_text())))
    whole = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in whole if name.split(".")[0] == "airflow"], f"{module}: import names, not modules"
    found = [
        node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "airflow"
    ]
    return {(str(node.module), alias.name) for node in found for alias in node.names}


def test_hooks_raise_no_errors_of_airflow() -> None:
    """Not even those that they find in other modules of the package; a program without tasks can use them."""
    hook_errors = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and _is_raised_by_hooks(kind)]
    assert {exceptions.FhirRejectedError, exceptions.RequestRejectedError} <= set(hook_errors)
    assert not [kind for kind in hook_errors if issubclass(kind, AirflowException)]
    for module in sorted(Path(healthaws.__path__[0], "hooks").glob("*.py")):
        assert "airflow.sdk" not in module.read_text(), module
        assert "airflow.exceptions" not in module.read_text(), module


def _is_raised_by_hooks(kind: type) -> bool:
    package = Path(healthaws.__path__[0])
    below = [*(package / "hooks").glob("*.py"), *(package / f"{name}.py" for name in BELOW_HOOKS)]
    return any(re.search(rf"\b{kind.__name__}\b", module.read_text()) for module in below)
