"""The base of all hooks: the amazon provider's, but it makes a client with a fifth of the CPU."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import botocore.session
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable

_DATA = ("endpoints", "partitions", "sdk-default-configuration", "_retry")


class AwsHook(AwsBaseHook):
    """
    The amazon provider's base hook with one session per hook and one loader of botocore's models per process.

    Its clients name the hook in their user agent instead of the operator: to find the operator, the base class reads
    the source of every function on the stack for each client that it makes.
    """

    @override
    def get_session(self, region_name: str | None = None, deferrable: bool = False) -> Any:
        region_name = region_name or self.region_name
        if (region_name, deferrable) not in self._sessions:
            session = super().get_session(region_name=region_name, deferrable=deferrable)
            if not deferrable:
                session._session.register_component("data_loader", model_loader())  # noqa: SLF001  # no other way to it
            self._sessions[region_name, deferrable] = session
        return self._sessions[region_name, deferrable]

    @cached_property
    def _sessions(self) -> dict[tuple[str | None, bool], Any]:
        return {}

    @override
    def _get_caller(self, target_function_name: str = "execute") -> str:
        return type(self).__name__


@cache
def model_loader() -> Any:
    """Return the loader of botocore's files, which keeps what it has read: they change with the package only."""
    return botocore.session.get_session().get_component("data_loader")


def load_models(services: Iterable[str]) -> None:
    """Read what botocore needs for a client of each service, and make nothing but data."""
    loader = model_loader()
    for name in _DATA:
        loader.load_data(name)
    for service in services:
        for kind in ("service-2", "endpoint-rule-set-1"):
            loader.load_service_model(service, kind, api_version=None)
