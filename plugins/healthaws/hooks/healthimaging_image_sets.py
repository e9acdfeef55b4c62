"""The image sets of one AWS HealthImaging data store."""

from __future__ import annotations

import gzip
import json
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk.exceptions import AirflowException
from botocore.config import Config
from botocore.exceptions import ClientError

from healthaws.exceptions import ServiceBusyError
from healthaws.hooks.healthimaging import HealthImagingHook
from healthaws.refusals import Backoff, Refusals, is_busy
from healthaws.replies import member

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LOCKED = "LOCKED"


class ImageSetLockedError(AirflowException):
    """A change of an image set takes longer than it was waited for; it goes on, and a later try sees its end."""


class HealthImagingImageSetsHook(HealthImagingHook):
    """
    Read, change, promote and delete image sets.

    Changes are asynchronous: the image set is LOCKED until the change is through. The service takes one change in four
    seconds per account (HealthImaging endpoints and quotas), so each request waits out throttling.

    Parameters
    ----------
    datastore_id : str
        The data store.
    backoff : Backoff, optional
        How refusals are waited out.
    poll_seconds : float
        Between two looks at a locked image set. (default: 2)
    lock_timeout : float
        How long an image set may be locked, in seconds. (default: 1800)
    *args, **kwargs
        Of :class:`HealthImagingHook`.
    """

    def __init__(
        self,
        datastore_id: str,
        *args: Any,
        backoff: Backoff | None = None,
        poll_seconds: float = 2,
        lock_timeout: float = 1800,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.datastore_id = datastore_id
        self.backoff = backoff or Backoff(initial=8, maximum=120)
        self.poll_seconds = poll_seconds
        self.lock_timeout = lock_timeout

    def settled(self, image_set_id: str) -> dict[str, Any] | None:
        """
        Get the properties of an image set as soon as it is not LOCKED.

        Parameters
        ----------
        image_set_id : str
            The image set.

        Returns
        -------
        dict or None
            The answer of GetImageSet, ``imageSetState`` ACTIVE or DELETED; None if there is no such image set.

        Raises
        ------
        ImageSetLockedError
            If it stays locked for longer than ``lock_timeout``.
        """
        end = time.monotonic() + self.lock_timeout
        while True:
            try:
                found: dict[str, Any] = self._ask(lambda: self.conn.get_image_set(**self._names(image_set_id)))
            except self.conn.exceptions.ResourceNotFoundException:
                return None
            if found["imageSetState"] != LOCKED:
                return found
            if time.monotonic() >= end:
                raise ImageSetLockedError(
                    f"image set {image_set_id} is still {found.get('imageSetWorkflowStatus')} after "
                    f"{self.lock_timeout:.0f} s: it goes on, and a later try sees its end"
                )
            time.sleep(self.poll_seconds)

    def metadata(self, image_set_id: str) -> dict[str, Any]:
        """
        Get the metadata document of an image set.

        Parameters
        ----------
        image_set_id : str
            The image set.

        See Also
        --------
        https://docs.aws.amazon.com/healthimaging/latest/APIReference/API_GetImageSetMetadata.html
        """
        reply = self._ask(lambda: self.conn.get_image_set_metadata(**self._names(image_set_id)))
        body = reply["imageSetMetadataBlob"].read()
        document: dict[str, Any] = json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        return document

    def primaries(self, study_instance_uid: str) -> list[str]:
        """
        Find the primary image sets of a study.

        Parameters
        ----------
        study_instance_uid : str
            The study.

        Returns
        -------
        list of str
            Their ids, in the order of the service.
        """
        filters = [
            {"operator": "EQUAL", "values": [{"DICOMStudyInstanceUID": study_instance_uid}]},
            {"operator": "EQUAL", "values": [{"isPrimary": True}]},
        ]
        request: dict[str, Any] = {"datastoreId": self.datastore_id, "searchCriteria": {"filters": filters}}
        found: list[str] = []
        while True:
            reply = self._ask(lambda: self.conn.search_image_sets(**request))
            found += [item["imageSetId"] for item in reply["imageSetsMetadataSummaries"]]
            if not reply.get("nextToken"):
                return found
            request["nextToken"] = reply["nextToken"]

    def update(self, image_set_id: str, version: str, updates: dict[str, bytes], *, force: bool) -> None:
        """
        Change or remove attributes; the image set is LOCKED until the change is through.

        Parameters
        ----------
        image_set_id : str
            The image set.
        version : str
            Its latest version; if it is not, the service refuses.
        updates : dict
            ``updatableAttributes`` and ``removableAttributes``: JSON in the form of the metadata document.
        force : bool
            Allow StudyID and UIDs to be changed.

        See Also
        --------
        https://docs.aws.amazon.com/healthimaging/latest/APIReference/API_UpdateImageSetMetadata.html
        """
        self._ask(
            lambda: self.conn.update_image_set_metadata(
                **self._names(image_set_id),
                latestVersionId=version,
                force=force,
                updateImageSetMetadataUpdates={"DICOMUpdates": updates},
            )
        )

    def promote(self, image_set_id: str, version: str) -> str:
        """
        Copy a non-primary image set into the primary hierarchy; both image sets are LOCKED until that is through.

        The request has no client token: repeated, it copies once more.

        Parameters
        ----------
        image_set_id : str
            The image set.
        version : str
            Its latest version.

        Returns
        -------
        str
            The id of the primary image set that is to have the instances.

        See Also
        --------
        https://docs.aws.amazon.com/healthimaging/latest/APIReference/API_CopyImageSet.html
        """
        reply = self._ask(
            lambda: self._without_retries.copy_image_set(
                datastoreId=self.datastore_id,
                sourceImageSetId=image_set_id,
                copyImageSetInformation={"sourceImageSet": {"latestVersionId": version}},
                promoteToPrimary=True,
            )
        )
        return str(member(reply, "destinationImageSetProperties", "CopyImageSet")["imageSetId"])

    def delete(self, image_set_id: str) -> None:
        """
        Delete an image set; it is LOCKED until it is gone.

        Parameters
        ----------
        image_set_id : str
            The image set.

        See Also
        --------
        https://docs.aws.amazon.com/healthimaging/latest/APIReference/API_DeleteImageSet.html
        """
        self._ask(lambda: self.conn.delete_image_set(**self._names(image_set_id)))

    @cached_property
    def _without_retries(self) -> Any:
        """A client that does not itself repeat a request whose answer was lost."""
        return self.get_client_type(config=self.conn.meta.config.merge(Config(retries={"total_max_attempts": 1})))

    def _names(self, image_set_id: str) -> dict[str, str]:
        return {"datastoreId": self.datastore_id, "imageSetId": image_set_id}

    def _ask(self, ask: Callable[[], T]) -> T:
        """Ask the service, waiting out throttling and quotas."""
        refusals = Refusals()
        while True:
            try:
                return ask()
            except ClientError as error:
                if not is_busy(error.response):
                    raise
                refusals = refusals.one_more()
                if refusals.seconds >= self.backoff.timeout:
                    raise ServiceBusyError(
                        f"{error}: refused {refusals.count} times in a row, for {refusals.seconds:.0f} s"
                    ) from error
                delay = self.backoff.delay(refusals.count)
                self.log.warning("Refused %d times in a row; asking again in %.0f s", refusals.count, delay)
                time.sleep(delay)
