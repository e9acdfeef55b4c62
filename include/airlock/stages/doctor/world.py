"""What the doctor may look at: AWS by connection, Airflow's settings and pools, the ledger, this machine."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airlock.pipelines import Pipeline


@dataclass(frozen=True)
class Caller:
    """Who calls AWS, as STS says."""

    arn: str
    account: str

    @property
    def partition(self) -> str:
        """The partition of AWS, for example ``aws-us-gov``."""
        return self.arn.split(":")[1]


class AwsAccess(Protocol):
    """AWS with the credentials, the Region and the endpoints of one Airflow connection."""

    @property
    def region(self) -> str | None:
        """The connection's Region; None if neither it nor the environment names one."""

    def client(self, service: str, region: str | None = None) -> Any:
        """Return boto3's client of a service; it waits a few seconds for an answer at most."""

    def caller(self) -> Caller:
        """Return who calls, and ask STS only once."""

    def is_local(self, service: str) -> bool:
        """Return whether the service is a program of this machine, which has no roles and checks no rights."""


@dataclass(frozen=True)
class Simulation:
    """IAM's answer about one action on one resource."""

    action: str
    is_allowed: bool
    missing: tuple[str, ...] = ()  # condition keys that the policies ask for and the question did not have


class Simulator(Protocol):
    """Asks IAM what a principal may do, as SimulatePrincipalPolicy does."""

    def simulate(
        self, principal: str, actions: Sequence[str], resource: str, context: Mapping[str, str]
    ) -> list[Simulation]:
        """Return for each action whether the principal's own policies allow it on the resource."""


@dataclass(frozen=True)
class Pool:
    """A pool of Airflow."""

    slots: int  # -1: no limit
    include_deferred: bool


@dataclass(frozen=True)
class Dag:
    """A DAG of Airflow."""

    is_paused: bool


@dataclass(frozen=True)
class Connection:
    """An Airflow connection, as far as its user may know it.

    Parameters
    ----------
    is_defined
        Whether Airflow has it; None if nobody could be asked.
    source
        Where it was found, or who could be asked, for messages.
    kind
        Airflow's connection type; empty if unknown.
    is_readable
        Whether its credentials can be used here.
    problem
        A sentence, without secrets, on why Airflow cannot use it as it is written; empty if it can.
    fix
        What to do about the problem.
    """

    is_defined: bool | None
    source: str
    kind: str = ""
    is_readable: bool = True
    problem: str = ""
    fix: str = ""


class Airflow(Protocol):
    """The Airflow deployment."""

    @property
    def has_settings(self) -> bool:
        """Whether its settings are those of this machine's environment or file."""

    def option(self, section: str, name: str) -> str | None:
        """Return a setting of Airflow's environment or file; None if it has its default."""

    def pool(self, name: str) -> Pool | None:
        """Return a pool; None if there is none of this name."""

    def dag(self, name: str) -> Dag | None:
        """Return a DAG; None if Airflow has none of this name."""

    def connection(self, name: str) -> Connection:
        """Return what is known of a connection."""

    def version(self, package: str) -> str | None:
        """Return the installed version of a Python package; None if it is not installed here."""


def measure_free_bytes(folder: Path) -> int:
    """Return the bytes that this user can still write to a folder's file system."""
    return shutil.disk_usage(folder).free


def find_temporary_folder() -> Path:
    """Return the folder of temporary files: TMPDIR as it is set, which Python passes over if it cannot write there."""
    return Path(os.environ.get("TMPDIR") or gettempdir())


@dataclass(frozen=True)
class World:
    """Everything that the checks of one pipeline look at.

    Parameters
    ----------
    pipeline
        The pipeline, from its file.
    connect
        Opens AWS with an Airflow connection.
    simulator
        Makes the simulator of a connection.
    airflow
        The deployment.
    ledger_url
        The ledger's address; None if none is known here.
    ledger_problem
        A sentence, without secrets, on why the connection of the ledger gives no address; empty if it does.
    temporary
        The folder of temporary files.
    now
        The clock of this machine.
    free_bytes
        The free bytes of a folder's file system.
    """

    pipeline: Pipeline
    connect: Callable[[str], AwsAccess]
    simulator: Callable[[AwsAccess], Simulator]
    airflow: Airflow
    ledger_url: str | None
    ledger_problem: str = ""
    temporary: Path = field(default_factory=find_temporary_folder)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    free_bytes: Callable[[Path], int] = measure_free_bytes
