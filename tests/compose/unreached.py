"""What a proof on this machine has not shown."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.compose.settings import PULLED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.compose.settings import Settings


def unreached(settings: Settings) -> Iterator[str]:
    """Return a sentence for each thing that the proof leaves open."""
    for name, image in settings.stand_ins.items():
        yield f"the image {PULLED[name]}: {image} stood in for it"
    if not settings.stand_ins:
        yield "digests: the images were taken by their tags"
    yield "Docker's own engine, and docker-compose build: podman ran and built the images"
    if shutil.which("systemctl") is None or not Path("/run/systemd/system").exists():
        yield "podman's timers of health checks, which need systemd: the proof called the checks"
    yield "an account of AWS: the profile account was read and its refusal tried, and none of its tasks ran"
    yield "bucket policies of AWS itself: the local S3 answers as they do"
