"""AWS's JSON 1.0 protocol: ``POST /``, the operation in ``X-Amz-Target``, everything else in the body."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from localaws.errors import AwsError
from localaws.protocol import Service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.model import OperationModel

    from localaws.protocol import Call

CONTENT_TYPE = "application/x-amz-json-1.0"
SERVER_FAULT = "InternalServerException"


class JsonService(Service):
    """One service that speaks JSON 1.0; its parameters are those of `Service`."""

    def find(self, call: Call) -> tuple[OperationModel, dict[str, str]]:
        """Return the operation that ``X-Amz-Target`` names; this protocol has no labels.

        Raises
        ------
        AwsError
            UnknownOperationException.
        """
        prefix, _, name = call.headers.get("x-amz-target", "").partition(".")
        known = prefix == self.model.metadata["targetPrefix"] and name in self.model.operation_names
        if call.method != "POST" or call.raw_path != "/" or not known:
            message = f"{self.name} is called by POST / with an X-Amz-Target of its model."
            raise AwsError("UnknownOperationException", message)
        return self.model.operation_model(name), {}

    def serialised(self, document: Any, status: int, headers: Mapping[str, str]) -> Response:
        """Return a document as this protocol sends it."""
        return Response(json.dumps(document), status, dict(headers), media_type=CONTENT_TYPE)

    def error(self, error: AwsError) -> Response:
        """Serialise an error: ``__type`` and ``Message`` in the body; models of this protocol name no statuses."""
        headers = {"x-amzn-errortype": error.code, "x-amzn-requestid": str(uuid.uuid4())}
        document = {"__type": error.code, "Message": error.message}
        return self.serialised(document, error.status or (500 if error.code == SERVER_FAULT else 400), headers)
