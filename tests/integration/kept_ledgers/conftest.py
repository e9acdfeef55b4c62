"""A real PostgreSQL beside the servers of the chain."""

from __future__ import annotations

from tests.servers.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]
