"""The local stack signs for the conversion profile that it makes itself, and for nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airlock.ccda.sign_off import UnsignedProfileError, require_signed
from airlock.ledger import Ledger, upgrade
from airlock.pipelines import CcdaPipeline, load_pipeline
from airlock_local.profiles import sign_profile
from airlock_local.settings import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = load_pipeline(ROOT / "include/pipelines/ccda.yaml")


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    url = f"sqlite:///{tmp_path}/ledger.db"
    upgrade(url)
    return SimpleNamespace(ledger_url=url)


def require(settings: Any) -> None:
    with Ledger.open(settings.ledger_url) as ledger:
        require_signed(SimpleNamespace(pipeline=SHIPPED, ledger=ledger))  # type: ignore[arg-type]


def test_a_run_of_the_shipped_pipeline_may_convert(settings: Any) -> None:
    sign_profile(settings, SHIPPED)
    require(settings)


def test_nothing_is_signed_for_a_real_account(settings: Any) -> None:
    assert isinstance(SHIPPED, CcdaPipeline)
    healthlake = SHIPPED.healthlake.model_copy(update={"aws_conn_id": "hospital"})
    sign_profile(settings, SHIPPED.model_copy(update={"healthlake": healthlake}))
    with pytest.raises(UnsignedProfileError, match="Nobody has signed"):
        require(settings)


def test_make_run_says_it_once(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sign_profile(settings, SHIPPED)
    sign_profile(settings, SHIPPED)
    assert capsys.readouterr().out.count("make run signed for version 1") == 1
