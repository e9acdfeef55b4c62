"""One moto and one emulator for all tests of the doctor; the account on them is made anew for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket

from localaws.server import serve
from localaws.settings import Seed
from tests.servers.in_process import ask_all_in_process
from tests.servers.moto import moto_server, reset_moto
from tests.unit.airlock.stages.doctor.account import LAKE, STORE, AccountAccess, connection_of, set_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.airlock.stages.doctor.account import Account


@pytest.fixture(scope="package")
def endpoints() -> Iterator[tuple[str, str]]:
    """The addresses of moto and of the emulator."""
    seeds = {"datastore": (Seed(STORE, "images"),), "healthlake_datastore": (Seed(LAKE, "records"),)}
    with moto_server() as s3, serve(s3_endpoint=s3, **seeds) as health, pytest.MonkeyPatch.context() as patch:
        ask_all_in_process(s3, patch)
        # moto passes over the conditions of a bucket's policy, so that "TLS only" would refuse every request.
        patch.setattr(FakeBucket, "get_permission", lambda *_: PermissionResult.NEUTRAL)
        yield s3, health


@pytest.fixture(scope="package")
def opened(endpoints: tuple[str, str]) -> tuple[AccountAccess, dict[str, str]]:
    """The clients, which take seconds to make, and the owners of buckets that are not of the account."""
    owners: dict[str, str] = {}
    return AccountAccess(connection_of(*endpoints), owners), owners


@pytest.fixture
def account(endpoints: tuple[str, str], opened: tuple[AccountAccess, dict[str, str]], tmp_path: Path) -> Account:
    """A healthy account, whose parts a test may break before it calls ``account.examine()``."""
    reset_moto(endpoints[0])
    return set_up(*opened, tmp_path)
