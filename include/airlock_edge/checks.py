"""What ``airlock-edge check`` looks at before an edge is started."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from airlock_edge.disk import find_disk
from airlock_edge.listener import make_tls_context
from airlock_edge.revocations import describe_end, find_first_end, is_near
from airlock_edge.start_error import EdgeStartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock_edge.settings import Edge, Tls


def find_faults(settings: Edge) -> Iterator[str]:
    """Yield what keeps an edge from its work, each with its fix."""
    state = settings.state
    if not state.is_dir():
        yield f"state: {state} is not a folder: make it, and give it to the edge's user"
    elif not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        yield f"state: this user cannot write to {state}: give the folder to it"
    if settings.listen.tls is not None:
        yield from _check_tls(settings.listen.tls)


def _check_tls(tls: Tls) -> Iterator[str]:
    files = {name: path for name, path in tls.model_dump().items() if path is not None}
    missing = [name for name, path in files.items() if not os.access(path, os.R_OK)]
    for name in missing:
        yield f"listen.tls.{name}: this user cannot read {getattr(tls, name)}: correct the path or the file's rights"
    if not missing:
        try:
            make_tls_context(tls)
        except EdgeStartError as error:
            yield str(error)
        if _may_others_read(tls.key):
            yield f"listen.tls.key: other users may read {tls.key}: chmod 0600 it"


def _may_others_read(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o007)


def _note_revocation_list(path: Path) -> Iterator[str]:
    """Yield a note and not a fault: an edge whose list has expired must start, and upload its spool."""
    with suppress(EdgeStartError):  # which is a fault
        end = find_first_end(path)
        if is_near(end):
            yield f"listen.tls.revocation_list: {describe_end(end)}"


def find_warnings(settings: Edge) -> Iterator[str]:
    """Yield what an operator should know, and may have a reason for."""
    if settings.listen.tls is None:
        yield "listen.tls: associations are not encrypted: anybody on the network can read the images. Set listen.tls"
    elif settings.listen.tls.revocation_list is not None:
        yield from _note_revocation_list(settings.listen.tls.revocation_list)
    if settings.store != "spool" or not settings.state.is_dir():
        return
    disk = find_disk(settings.state)
    name = disk.name or "a file system without a device"
    if not disk.is_mirrored:
        yield f"spool.redundant: Linux sees no mirror below {settings.state} ({name}): is it in hardware?"
    if not disk.is_encrypted:
        yield f"spool: Linux sees no encryption (dm-crypt) below {settings.state} ({name}): it has images"
