"""The base of hooks that start jobs of one kind."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

from healthaws.hooks.service import HealthServiceHook

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobHook(HealthServiceHook):
    """Base of hooks that start, describe, list and find the jobs of one kind."""

    @classmethod
    @abstractmethod
    def output_folder(cls, properties: Mapping[str, Any]) -> str:
        """
        Return the folder that holds the manifest and the results of a job, with the slash at the end.

        The services return as a job's output either this folder or the prefix that the job was started with.

        Parameters
        ----------
        properties : Mapping
            The job's properties, as the service returns them.
        """


JobHookT = TypeVar("JobHookT", bound=JobHook)
