"""The base class of the sections of a pipeline file, and the types that several of them use."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from airlock.storage.s3uri import S3Uri, S3UriError

NAME = r"[a-z][a-z0-9_-]{0,63}"


class Settings(BaseModel):
    """Immutable settings that refuse unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_prefix(text: str) -> str:
    try:
        uri = S3Uri.parse(text)
    except S3UriError as error:
        raise ValueError(str(error)) from error
    if not uri.key:
        raise ValueError(f"{text!r} is a bucket without a prefix: add a prefix that ends in '/'")
    if not uri.key.endswith("/"):
        raise ValueError(f"{text!r} must end in '/': without it, .../1.2.3 would also match .../1.2.34/")
    return text


Prefix = Annotated[str, AfterValidator(_check_prefix)]


def _check_object(text: str) -> str:
    try:
        uri = S3Uri.parse(text)
    except S3UriError as error:
        raise ValueError(str(error)) from error
    if not uri.key or uri.key.endswith("/"):
        raise ValueError(f"{text!r} is not the address of one object: write s3://bucket/folder/name.csv")
    return text


ObjectUri = Annotated[str, AfterValidator(_check_object)]
