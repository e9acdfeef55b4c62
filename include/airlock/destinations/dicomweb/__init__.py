"""A DICOMweb client: Store Transactions (STOW-RS, PS3.18 section 10.5), and the servers' answers."""

from __future__ import annotations

from airlock.destinations.dicomweb.answer import StoreAnswer, is_for_good, may_be_there, read_answer
from airlock.destinations.dicomweb.client import BearerToken, DicomWeb, DicomWebError, RequestRefusedError, credentials
from airlock.destinations.dicomweb.multipart import Multipart, Part

__all__ = [
    "BearerToken",
    "DicomWeb",
    "DicomWebError",
    "Multipart",
    "Part",
    "RequestRefusedError",
    "StoreAnswer",
    "credentials",
    "is_for_good",
    "may_be_there",
    "read_answer",
]
