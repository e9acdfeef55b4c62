"""An S3 server on loopback that has all that staging and listing ask for, and goes wrong as a test wants it to.

`tests.explore.memory_s3` holds its objects. Copies and their faults are those of `copying_s3`.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote_plus, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from botocore.exceptions import ClientError

from tests.explore.memory_s3 import MemoryS3
from tests.servers import copying_s3
from tests.servers.copying_s3 import CopyingS3
from tests.servers.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.copying_s3 import Fault

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class StoringS3(CopyingS3):
    """The server's state.

    Attributes
    ----------
    memory
        The objects.
    listings
        The queries of ListObjectsV2 so far.
    listing_fault
        Called with the number of each ListObjectsV2 from 0: what goes wrong with it; None for nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryS3(lambda: datetime.now(UTC))
        self.listings: list[dict[str, str]] = []
        self.listing_fault: Callable[[int], Fault | None] = lambda _number: None

    def store(self, bucket: str, key: str, body: bytes) -> str:
        """Store an object and return its etag."""
        with self.lock:
            return self.memory.store(bucket, key, body).etag

    def bodies(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Return the objects of a bucket, by their keys."""
        objects = self.memory.buckets[bucket].objects
        return {key: stored.body for key, stored in objects.items() if key.startswith(prefix)}


class Handler(copying_s3.Handler):
    """Answers the operations on objects."""

    s3: StoringS3

    def do_GET(self) -> None:
        query = {name: given[0] for name, given in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}
        if "list-type" not in query:
            return self._give("get_object")
        with self.s3.lock:
            self.s3.listings.append(query)
            fault = self.s3.listing_fault(len(self.s3.listings) - 1)
        return self.list_objects(query) if fault is None else fault(self)

    def do_HEAD(self) -> None:
        self._give("head_object")

    def do_PUT(self) -> None:
        if "x-amz-copy-source" in self.headers:
            return super().do_PUT()
        bucket, key = self._place()
        etag = self.s3.store(bucket, key, self.rfile.read(int(self.headers["Content-Length"])))
        return self.answer(200, head={"ETag": f'"{etag}"'})

    def do_POST(self) -> None:
        """Answer DeleteObjects."""
        wanted = ET.fromstring(self.rfile.read(int(self.headers["Content-Length"])))
        with self.s3.lock:
            for key in wanted.iter(f"{{{_NAMESPACE}}}Key"):
                self.s3.memory.delete_object(Bucket=self._place()[0], Key=key.text)
        self.answer(200, "<DeleteResult></DeleteResult>")

    def find_refusal(self) -> tuple[int, str] | None:
        """Return the status and code with which a copy is refused, if it is."""
        if not self.is_signed():
            return 403, "SignatureDoesNotMatch"
        bucket, _, key = unquote(self.headers["x-amz-copy-source"]).partition("/")
        stored = self.s3.memory.buckets[bucket].objects.get(key)
        if stored is None:
            return 404, "NoSuchKey"
        is_same = self.headers["x-amz-copy-source-if-match"].strip('"') == stored.etag
        return None if is_same else (412, "PreconditionFailed")

    def make(self) -> str:
        """Make the copy and return the answer's body."""
        source, _, key = unquote(self.headers["x-amz-copy-source"]).partition("/")
        bucket, target = self._place()
        with self.s3.lock:
            self.s3.copies[f"{bucket}/{target}"] += 1
            made = self.s3.memory.copy_object(Bucket=bucket, Key=target, CopySource={"Bucket": source, "Key": key})
        return f"<CopyObjectResult><ETag>{escape(made['CopyObjectResult']['ETag'])}</ETag></CopyObjectResult>"

    def list_objects(self, query: dict[str, str]) -> None:
        """Answer ListObjectsV2."""
        names = {"prefix": "Prefix", "delimiter": "Delimiter", "start-after": "StartAfter"}
        given = {names[name]: value for name, value in query.items() if name in names}
        if token := query.get("continuation-token"):
            given["ContinuationToken"] = bytes.fromhex(token).decode()
        with self.s3.lock:
            found = self._ask("list_objects_v2", Bucket=self._place()[0], **given)
        if found is not None:
            self.answer(200, _describe_listing(found))

    def _give(self, operation: str) -> None:
        """Answer an object, or what is known of it."""
        bucket, key = self._place()
        given = {"Range": self.headers["Range"]} if "Range" in self.headers else {}
        with self.s3.lock:
            found = self._ask(operation, Bucket=bucket, Key=key, **given)
        if found is None:
            return
        modified = found["LastModified"].strftime("%a, %d %b %Y %H:%M:%S GMT")
        head = {"ETag": found["ETag"], "Last-Modified": modified}
        if operation == "head_object":
            self.begin(200, found["ContentLength"], head)
        else:
            self.answer(206 if given else 200, found["Body"].read(), head)

    def _ask(self, operation: str, **given: Any) -> dict[str, Any] | None:
        """Ask the memory; if it refuses, answer so and return None."""
        try:
            return dict(getattr(self.s3.memory, operation)(**given))
        except ClientError as error:
            self.refuse(error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"])
            return None

    def refuse(self, status: int, code: str) -> None:
        """Answer an error; without a body where the client reads none."""
        if self.command == "HEAD":
            self.begin(status, 0)
        else:
            super().refuse(status, code)

    def _place(self) -> tuple[str, str]:
        bucket, _, key = unquote(urlsplit(self.path).path).removeprefix("/").partition("/")
        return bucket, key


def _describe_listing(found: dict[str, Any]) -> str:
    """Return the answer, with encoded keys."""
    token = found.get("NextContinuationToken", "").encode().hex()
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    rows = [
        f"<Contents><Key>{quote_plus(item['Key'], safe='/')}</Key><ETag>{escape(item['ETag'])}</ETag>"
        f"<Size>{item['Size']}</Size><LastModified>{item['LastModified'].isoformat()}</LastModified></Contents>"
        for item in found["Contents"]
    ]
    folders = [
        f"<CommonPrefixes><Prefix>{quote_plus(item['Prefix'], safe='/')}</Prefix></CommonPrefixes>"
        for item in found["CommonPrefixes"]
    ]
    inner = "".join(["<EncodingType>url</EncodingType>", more if token else "", *rows, *folders])
    return f'<ListBucketResult xmlns="{_NAMESPACE}">{inner}</ListBucketResult>'


@contextmanager
def storing_s3(*buckets: str) -> Iterator[StoringS3]:
    """Yield a server with these buckets."""
    s3 = StoringS3()
    for bucket in buckets:
        s3.memory.create_bucket(Bucket=bucket)
    with serving(Handler, s3=s3) as s3.endpoint:
        yield s3
