"""The local stack adopts its own data stores, so that it goes on if its ledger was removed and the emulator was not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from airlock.ledger import Adoption, Ledger
from airlock.stages.adopt import adopt
from airlock_cli.adopt import connect_search, list_stores
from airlock_local.environment import LOCAL_CONNECTION, LOCAL_KEY, LOCAL_SECRET, REGION, USER
from airlock_local.progress import say

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock_local.settings import Settings


def adopt_stores(settings: Settings, pipeline: Pipeline) -> None:
    """Adopt those local data stores of a pipeline that hold something and that the ledger does not know; say so."""
    session = boto3.Session(LOCAL_KEY, LOCAL_SECRET, region_name=REGION)
    with Ledger.open(settings.ledger_url) as ledger:
        for store in list_stores(pipeline):
            known = ledger.find_store(store.datastore_id)
            if store.aws_conn_id != LOCAL_CONNECTION or (known is not None and known.is_open):
                continue
            config = Config(inject_host_prefix=False, proxies={})
            search = connect_search(
                pipeline, store.datastore_id, session, endpoint_url=settings.health_url, config=config
            )
            found = search.find_any()
            if found is None:
                continue
            number = adopt(ledger, store.datastore_id, search, _decide, lambda _: None)
            say(
                f"The ledger is new, but the local data store {store.datastore_id} holds {found}. {number:,} were "
                f"adopted as foreign. Files that meet them are held. To begin with empty data stores: make clean."
            )


def _decide() -> Adoption:
    return Adoption(USER, "make run: a data store of the local stack", datetime.now(UTC))
