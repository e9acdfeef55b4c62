"""The AWS side of the pages: decisions' copies, a run's lists, and queues, by the connections of the pipeline files.

Only who asks for one of these pays for the import of Airflow's Amazon provider.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from airlock.stages.decision_log import decide
from airlock.stages.pages.tonight import DEAD_LETTERS, QueueDepth
from airlock.storage.aws import error_code
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from botocore.config import Config

    from airlock.ledger import Ledger
    from airlock.ledger.database import Scope
    from airlock.pipelines import Arrivals, Pipeline

T = TypeVar("T")
_SECONDS = 15.0  # between two looks at a queue
_AT_A_TIME = 8  # queues that are asked
_WAITING, _IN_FLIGHT = "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"


class AirflowAccount:
    """The account as Airflow's connections reach it; it implements `sources.Account`."""

    def __init__(self) -> None:
        self._depths: dict[str, tuple[float, QueueDepth]] = {}

    def decide(self, pipeline: Pipeline, ledger: Ledger, record: Callable[[Ledger], T], scope: Scope) -> T:
        """Record a decision about a pipeline in the ledger, after its copy was written."""
        return decide(open_s3(pipeline), pipeline, ledger, record, scope)

    def stream_list(self, pipeline: Pipeline, run_key: str, name: str) -> Iterator[bytes]:
        """Yield a file of a run's audit from the workspace.

        Raises
        ------
        S3Error
            With the code NoSuchKey if there is none, or if S3 refuses it.
        """
        where = S3Uri.parse(pipeline.workspace).join(pipeline.name, run_key, "audit", name)
        return open_s3(pipeline).stream(where)

    def count_messages(self, pipelines: Sequence[Pipeline]) -> list[QueueDepth]:
        """Return the depth of the queues of these pipelines, at most `_SECONDS` old; they are asked at once."""
        queues = [queue for pipeline in pipelines for queue in _list_queues(pipeline)]
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return list(pool.map(lambda queue: self._depth(*queue), queues))

    def _depth(self, pipeline: str, kind: str, url: str, settings: Arrivals) -> QueueDepth:
        known = self._depths.get(url)
        if known is None or monotonic() - known[0] > _SECONDS:
            known = self._depths[url] = monotonic(), _ask(pipeline, kind, url, settings)
        return known[1]


def _list_queues(pipeline: Pipeline) -> list[tuple[str, str, str, Arrivals]]:
    settings = pipeline.arrivals
    if settings is None:
        return []
    urls = {"arrivals": settings.queue_url, DEAD_LETTERS: settings.dead_letter_queue_url}
    return [(pipeline.name, kind, url, settings) for kind, url in urls.items() if url is not None]


def open_s3(pipeline: Pipeline) -> S3:
    """Open S3 with the connection of a pipeline's source."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook  # noqa: PLC0415  # see above

    hook = S3Hook(aws_conn_id=pipeline.source.aws_conn_id)
    return S3(hook.get_session(), hook.get_conn(), pipeline.bucket_settings())


def _ask(pipeline: str, kind: str, url: str, settings: Arrivals) -> QueueDepth:
    from airflow.providers.amazon.aws.hooks.sqs import SqsHook  # noqa: PLC0415  # see above

    try:
        hook = SqsHook(aws_conn_id=settings.aws_conn_id, region_name=settings.region_name, config=_impatient())
        client = hook.get_conn()
        found = client.get_queue_attributes(QueueUrl=url, AttributeNames=[_WAITING, _IN_FLIGHT])["Attributes"]
    except Exception as error:  # noqa: BLE001  # a page about destinations does not fail because of a queue
        return QueueDepth(pipeline, kind, None, None, error_code(error))
    return QueueDepth(pipeline, kind, int(found[_WAITING]), int(found[_IN_FLIGHT]), None)


def _impatient() -> Config:
    """Return settings with which a queue that does not answer holds a page up for some seconds only."""
    from botocore.config import Config  # noqa: PLC0415  # see above

    return Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 1})
