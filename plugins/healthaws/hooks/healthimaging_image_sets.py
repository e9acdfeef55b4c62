"""The image sets of one AWS HealthImaging data store."""

from __future__ import annotations

import gzip
import json
import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.config import Config
from botocore.exceptions import ClientError

from healthaws.exceptions import HealthServiceError, IncompleteReplyError, ServiceBusyError
from healthaws.hooks.healthimaging import HealthImagingHook
from healthaws.refusals import Backoff, Refusals, is_busy
from healthaws.replies import member

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LOCKED = "LOCKED"


class ImageSetLockedError(HealthServiceError):
    """A change of an image set takes longer than ``lock_timeout``; it goes on, and a later try sees its end."""


class ImageSetNotIndexedError(HealthServiceError):
    """SearchImageSets does not find an existing image set: its index lags, and a later try may find it."""


class HealthImagingImageSetsHook(HealthImagingHook):
    """
    Read, change, promote and delete image sets.

    Changes are asynchronous: the image set is LOCKED until the change is done. The service accepts one change in four
    seconds per account (HealthImaging endpoints and quotas), so each request waits out throttling.

    Parameters
    ----------
    datastore_id : str
        The data store.
    backoff : Backoff, optional
        The pauses after refusals.
    poll_seconds : float
        Seconds between two reads of a locked image set. (default: 2)
    lock_timeout : float
        How long an image set may be locked, in seconds. (default: 1800)
    index_timeout : float
        How long SearchImageSets may lag behind, in seconds. (default: 300)
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
        index_timeout: float = 300,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.datastore_id = datastore_id
        self.backoff = backoff or Backoff(initial=8, maximum=120)
        self.poll_seconds = poll_seconds
        self.lock_timeout = lock_timeout
        self.index_timeout = index_timeout

    def settled(self, image_set_id: str) -> dict[str, Any] | None:
        """
        Get the properties of an image set once it is not LOCKED.

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
            If it is locked for longer than ``lock_timeout``.
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
                    f"Image set {image_set_id} is still {found.get('imageSetWorkflowStatus')} after "
                    f"{self.lock_timeout:.0f} s. The change goes on, and a later try sees its end."
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

    def versions(self, image_set_id: str) -> dict[int, str]:
        """
        Get the workflow status of each version of an image set.

        Parameters
        ----------
        image_set_id : str
            The image set.

        See Also
        --------
        https://docs.aws.amazon.com/healthimaging/latest/APIReference/API_ListImageSetVersions.html
        """
        listed = self._all("list_image_set_versions", "imageSetPropertiesList", self._names(image_set_id))
        return {int(item["versionId"]): item.get("ImageSetWorkflowStatus", "") for item in listed}

    def primaries(self, study_instance_uid: str, shown: str) -> list[str]:
        """
        Find the primary image sets of a study, once the search's index has caught up.

        AWS documents one search attribute per request, so the answer is filtered for primary image sets.

        Parameters
        ----------
        study_instance_uid : str
            The study.
        shown : str
            An image set of the study; until the search finds it, others may be missing too.

        Returns
        -------
        list of str
            Their ids, in the order of the service.

        Raises
        ------
        ImageSetNotIndexedError
            If the search does not find ``shown`` within ``index_timeout``.

        See Also
        --------
        https://docs.aws.amazon.com/healthimaging/latest/APIReference/API_SearchImageSets.html
        """
        filters = [{"operator": "EQUAL", "values": [{"DICOMStudyInstanceUID": study_instance_uid}]}]
        request = {"datastoreId": self.datastore_id, "searchCriteria": {"filters": filters}}
        end = time.monotonic() + self.index_timeout
        while True:
            found = self._all("search_image_sets", "imageSetsMetadataSummaries", request)
            if any(item["imageSetId"] == shown for item in found):
                return [item["imageSetId"] for item in found if member(item, "isPrimary", "SearchImageSets")]
            if time.monotonic() >= end:
                raise ImageSetNotIndexedError(
                    f"SearchImageSets does not find the existing image set {shown} after {self.index_timeout:.0f} s. "
                    f"Its index lags, and a later try may find it."
                )
            time.sleep(self.poll_seconds)

    def _all(self, operation: str, items: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the items of all pages.

        Raises
        ------
        IncompleteReplyError
            If a page leads back to itself.
        """
        ask, found, token = getattr(self.conn, operation), list[dict[str, Any]](), None
        while True:
            reply = self._ask(partial(ask, **request, **({"nextToken": token} if token else {})))
            found += reply[items]
            following = reply.get("nextToken")
            if not following:
                return found
            if following == token:
                raise IncompleteReplyError(f"{operation}: the service returned the same nextToken twice.")
            token = following

    def update(self, image_set_id: str, version: str, updates: dict[str, bytes], *, force: bool) -> None:
        """
        Change or remove attributes; the image set is LOCKED until the change is done.

        Parameters
        ----------
        image_set_id : str
            The image set.
        version : str
            Its latest version; the service refuses another.
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
        Copy a non-primary image set into the primary hierarchy; both image sets are LOCKED until the copy is done.

        The request has no client token: a repeated request copies again.

        Parameters
        ----------
        image_set_id : str
            The image set.
        version : str
            Its latest version.

        Returns
        -------
        str
            The id of the primary image set that gets the instances.

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
        """A client that does not repeat a request whose answer was lost."""
        return self.get_client_type(config=self.conn.meta.config.merge(Config(retries={"total_max_attempts": 1})))

    def _names(self, image_set_id: str) -> dict[str, str]:
        return {"datastoreId": self.datastore_id, "imageSetId": image_set_id}

    def _ask(self, ask: Callable[[], T]) -> T:
        """Send a request, and wait out throttling and quota refusals."""
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
                self.log.warning("Refused %d times in a row. Asking again in %.0f s.", refusals.count, delay)
                time.sleep(delay)
