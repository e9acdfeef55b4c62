"""What Linux tells of the disk below a folder: whether it is mirrored and encrypted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_DEVICES = Path("/sys/dev/block")
_MIRRORS = {"raid1", "raid10", "raid4", "raid5", "raid6"}  # levels of md that survive the loss of a disk


@dataclass(frozen=True)
class Disk:
    """A disk, as far as Linux knows it: a RAID controller or a storage network does its work unseen.

    Attributes
    ----------
    name
        Of the device, as ``dm-0``; "" for a file system without one, such as overlay or NFS.
    is_mirrored, is_encrypted
        Whether a layer of it is a mirror of md, or dm-crypt.
    """

    name: str
    is_mirrored: bool
    is_encrypted: bool


def find_disk(folder: Path, devices: Path = _DEVICES) -> Disk:
    """Return the disk of a folder.

    Parameters
    ----------
    folder
        The folder.
    devices
        The kernel's list of block devices.
    """
    number = folder.stat().st_dev
    path = devices / f"{os.major(number)}:{os.minor(number)}"
    if not path.exists():
        return Disk("", is_mirrored=False, is_encrypted=False)
    layers = _list_layers(path.resolve())
    mirrored = any(_read(layer / "md/level") in _MIRRORS for layer in layers)
    encrypted = any(_read(layer / "dm/uuid").startswith("CRYPT-") for layer in layers)
    return Disk(path.resolve().name, mirrored, encrypted)


def _list_layers(device: Path) -> list[Path]:
    """Return a device and those below it; a partition's layers are those of its disk, too."""
    found = [device]
    if (device / "partition").exists():
        found += _list_layers(device.parent)
    slaves = device / "slaves"
    for below in sorted(slaves.iterdir()) if slaves.is_dir() else ():
        found += _list_layers(below.resolve())
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
