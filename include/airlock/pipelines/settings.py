"""What every section of a pipeline file is, and the values that several of them have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from airlock.storage.s3uri import S3Uri, S3UriError

NAME = r"[a-z][a-z0-9_-]{0,63}"


class Settings(BaseModel):
    """Settings that cannot be changed, and that refuse a field they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _prefix(text: str) -> str:
    try:
        uri = S3Uri.parse(text)
    except S3UriError as error:
        raise ValueError(str(error)) from error
    if not uri.key:
        raise ValueError(f"{text!r} is a bare bucket: give a prefix below it, ending in '/'")
    if not uri.key.endswith("/"):
        raise ValueError(f"{text!r} must end in '/': without it, .../1.2.3 would take in .../1.2.34/ too")
    return text


Prefix = Annotated[str, AfterValidator(_prefix)]
