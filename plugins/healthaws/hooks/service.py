"""The base of all hooks of AWS health services."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import override

from healthaws.hooks.aws import AwsHook

WAITERS = Path(__file__).parents[1] / "waiters"


class HealthServiceHook(AwsHook):
    """
    Base of hooks around one boto3 client, with the waiter model that this package has for its service.

    Parameters
    ----------
    *args, **kwargs
        Passed to :class:`airflow.providers.amazon.aws.hooks.base_aws.AwsBaseHook` (``aws_conn_id``, ``region_name``,
        ``verify``, ``config``).
    """

    client_type: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["client_type"] = self.client_type
        super().__init__(*args, **kwargs)

    @cached_property
    @override
    def waiter_path(self) -> Path:
        return WAITERS / f"{self.client_type}.json"  # the base class looks inside the amazon provider only

    @abstractmethod
    def datastore_status(self, datastore_id: str) -> str | None:
        """
        Get the status of a data store, as in ``ACTIVE``; None if there is no such data store.

        Parameters
        ----------
        datastore_id : str
            The data store.
        """
