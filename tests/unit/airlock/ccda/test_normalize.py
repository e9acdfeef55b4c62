"""Normalize of documents: under a prefix per batch, unpacked, under names that say nothing, within the job's limits."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from airlock.ccda.normalize import normalize
from airlock.stages.batches import find_batches
from airlock.storage.s3uri import S3Uri
from airlock_local.sample.ccda.documents import ccd
from tests.unit.airlock.ccda.world import ended, normalized, staged, validated

if TYPE_CHECKING:
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from tests.unit.airlock.world import World

SIZE = len(ccd(1))


def content(run: Run[CcdaPipeline]) -> dict[str, bytes]:
    """Return all that lies below the batches' prefixes."""
    prefixes = [S3Uri.parse(batch.input_uri) for batch in find_batches(run)]
    keys = [item.key for prefix in prefixes for item in run.s3.list_objects(prefix, placeholders=True)]
    return {key: run.s3.get(S3Uri("work", key)) for key in keys}


def test_accepted_documents_are_staged_as_they_are(world: World) -> None:
    files = {"MUELLER.xml": ccd(1), "b.xml.gz": gzip.compress(ccd(2)), "c.xml": b"x", "d.xml": ccd(1)}
    run = normalized(world, files)
    rows, found = staged(run), content(run)
    assert rows.keys() == {"MUELLER.xml", "b.xml.gz"}
    assert found == {rows["MUELLER.xml"]["staged_key"]: ccd(1), rows["b.xml.gz"]["staged_key"]: ccd(2)}
    assert {key.rpartition("/")[2] for key in found} == {"000000.xml", "000001.xml"}
    (batch,) = find_batches(run)
    assert (batch.files, batch.bytes) == (2, len(ccd(1)) + len(ccd(2)))


def test_a_batch_keeps_to_the_documents_of_a_job(world: World) -> None:
    run = normalized(world, {f"{n}.xml": ccd(n) for n in range(5)}, transformation={"documents_per_job": 2})
    assert [batch.files for batch in find_batches(run)] == [2, 2, 1]
    assert len(content(run)) == 5


def test_a_batch_keeps_to_the_bytes_of_a_job_those_that_are_sent(world: World) -> None:
    packed = {f"{n}.xml.gz": gzip.compress(ccd(n)) for n in range(5)}
    run = normalized(world, packed, transformation={"bytes_per_job": 2 * SIZE + 100})
    assert [batch.files for batch in find_batches(run)] == [2, 2, 1]
    assert all(batch.bytes <= 2 * SIZE + 100 for batch in find_batches(run))


def test_a_document_that_is_larger_than_a_job_goes_alone(world: World) -> None:
    run = normalized(world, {"a.xml": ccd(1), "b.xml": ccd(2)}, transformation={"bytes_per_job": 1})
    assert [batch.files for batch in find_batches(run)] == [1, 1]


def test_a_document_that_is_gone_or_changed_is_not_sent(world: World) -> None:
    files = {"a.xml": ccd(1), "b.xml": ccd(2), "c.xml.gz": gzip.compress(ccd(3)), "d.xml": ccd(4)}
    run = validated(world, files)
    world.put("s3://archive/in/one/a.xml", ccd(9))
    world.s3.delete("archive", ["in/one/b.xml"])
    world.put("s3://archive/in/one/c.xml.gz", gzip.compress(ccd(8)))
    (batch,) = normalize(run)
    assert {name: row["reason"] for name, row in staged(run).items()} == {
        "a.xml": "object_changed",
        "b.xml": "object_gone",
        "c.xml.gz": "object_changed",
        "d.xml": None,
    }
    assert batch.files == 1
    assert list(content(run).values()) == [ccd(4)]


def test_nothing_accepted_gives_no_batch(world: World) -> None:
    assert find_batches(normalized(world, {"a.xml": b"x"})) == []


def test_the_same_again_gives_the_same(world: World) -> None:
    run = normalized(world, {f"{n}.xml": ccd(n) for n in range(3)}, transformation={"documents_per_job": 2})
    first = find_batches(run), content(run), staged(run)
    world.put(f"{first[0][0].input_uri}000099.xml", b"left by a try that broke off")
    normalize(run)
    assert (find_batches(run), content(run), staged(run)) == first


def test_once_a_conversion_was_begun_the_batches_stand(world: World) -> None:
    run = normalized(world, {"a.xml": ccd(1)})
    first = find_batches(run)
    ended(world, run, {})
    world.s3.delete("archive", ["in/one/a.xml"])
    assert normalize(run) == first
    assert staged(run)["a.xml"]["reason"] is None
