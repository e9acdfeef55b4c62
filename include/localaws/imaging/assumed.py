"""Instances that a job assumes by the keys of its files: for tests of load, whose S3 holds no bytes of theirs."""

from __future__ import annotations

from hashlib import sha256

from localaws.imaging.elements import Levels
from localaws.imaging.part10 import Instance
from localaws.imaging.pixels import Frames

_EXPLICIT = "1.2.840.10008.1.2.1"
_UUID_ROOT = "2.25"  # UIDs made of a UUID (PS3.5 B.2)


def assume_instance(input_uri: str, key: str, number: int) -> Instance:
    """Return the instance that a file is taken for, the same one whenever its prefix is imported.

    Parameters
    ----------
    input_uri : str
        The job's prefix; its files are one study.
    key : str
        The file's.
    number : int
        Of the series that the file is in.
    """
    study, series, sop = _uid(input_uri), _uid(f"{input_uri}\n{number}"), _uid(f"{input_uri}\n{number}\n{key}")
    levels = Levels(
        study={"StudyInstanceUID": study},
        series={"SeriesInstanceUID": series, "SeriesNumber": number},
        instance={"SOPInstanceUID": sop},
    )
    return Instance(sop, study, series, levels, Frames(_EXPLICIT), [])


def _uid(text: str) -> str:
    return f"{_UUID_ROOT}.{int.from_bytes(sha256(text.encode()).digest()[:16])}"
