"""Run by the Python of requirements-fab.lock: make roles and users, which come as JSON on standard input."""

from __future__ import annotations

import json
import sys
from typing import Any

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.utils.providers_configuration_loader import providers_configuration_loaded


@providers_configuration_loaded
def make(asked: dict[str, Any]) -> None:
    """Make the roles, then the users."""
    with get_application_builder() as builder:
        manager = builder.sm
        for name, rights in asked["roles"].items():
            role = manager.add_role(name)
            for action, resource in rights:
                manager.add_permission_to_role(role, manager.create_permission(action, resource))
        for user, role_name in asked["users"].items():
            role = manager.find_role(role_name)
            assert role is not None, role_name
            made = manager.add_user(user, user, "Test", f"{user}@localhost", role, asked["password"])
            assert made, user


if __name__ == "__main__":
    make(json.load(sys.stdin))
