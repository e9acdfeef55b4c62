"""FAB's security manager with the roles of Airlock; ``webserver_config.py`` names it as ``SECURITY_MANAGER_CLASS``.

The API server makes the roles at its start, and so does ``airflow sync-perm``. Both add the rights that a role lacks,
and take none away: what an administrator has added to a role stays.
"""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride

from airlock_console.roles import ROLES

_VIEW: list[tuple[str, str]] = FabAirflowSecurityManagerOverride.VIEWER_PERMISSIONS


class AirlockSecurityManager(FabAirflowSecurityManagerOverride):  # type: ignore[misc]  # FAB is an extra: not in .venv
    """FAB's roles, and those of `airlock_console.roles`."""

    ROLE_CONFIGS: ClassVar[list[dict[str, Any]]] = [
        *FabAirflowSecurityManagerOverride.ROLE_CONFIGS,
        *({"role": role, "perms": [*_VIEW, *sorted(rights)]} for role, rights in ROLES.items()),
    ]
