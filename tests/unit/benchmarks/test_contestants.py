"""The contestants read the same: all attributes of every kind of object, as pydicom has them."""

import pytest
from benchmarks.contestants import BUCKET, CONTESTANTS, Object
from benchmarks.corpus import instance, truth
from benchmarks.headers import present
from benchmarks.seaweed import client

from tests.servers.moto import moto_server

KINDS = ("mr", "csa", "japanese", "report")
# s3fs is in requirements-bench.lock, which make proofs installs and make test does not.
NAMES = [pytest.param(name, marks=pytest.mark.proof) if name == "s3fs" else name for name in CONTESTANTS]


@pytest.fixture(scope="module")
def archive():
    """An S3 server with an object of each kind; its address, the objects, what pydicom reads in them."""
    bodies = [instance(kind, number) for number, kind in enumerate(KINDS)]
    with moto_server() as endpoint:
        s3 = client(endpoint)
        s3.create_bucket(Bucket=BUCKET)
        listed = []
        for kind, body in zip(KINDS, bodies, strict=True):
            etag = s3.put_object(Bucket=BUCKET, Key=f"{kind}.dcm", Body=body)["ETag"].strip('"')
            listed.append(Object(f"{kind}.dcm", etag, len(body), "2026-01-01T00:00:00+00:00"))
        yield endpoint, listed, [present(truth(body)) for body in bodies]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_contestant_reads_what_pydicom_reads(name, archive) -> None:
    endpoint, listed, truths = archive

    contestant = CONTESTANTS[name]

    rows = contestant.rows(contestant.prepare(endpoint)(listed))

    if contestant.parses:
        assert [present(row) for row in rows] == truths
    else:
        assert rows == [None] * len(listed)
