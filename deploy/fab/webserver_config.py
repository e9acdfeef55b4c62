"""The login of Airflow's FAB auth manager: users with passwords in Airflow's database, and the roles of Airlock.

docs/identity.md has the same for a hospital's directory (LDAP) and for single sign-on (OpenID Connect).
"""

from __future__ import annotations

from flask_appbuilder.const import AUTH_DB

from airlock_console.security_manager import AirlockSecurityManager

SECURITY_MANAGER_CLASS = AirlockSecurityManager
AUTH_TYPE = AUTH_DB
AUTH_USER_REGISTRATION = False  # nobody makes themselves a user
AUTH_ROLE_PUBLIC = None  # and nobody sees anything without a login
