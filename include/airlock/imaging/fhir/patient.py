"""Patient: one per identity, merged from the studies that are published together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.imaging.fhir.identifiers import patient_id, patient_identifier
from airlock.imaging.fhir.values import day, filled, gender, human_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airlock.imaging.contracts import StudyContract
    from airlock.imaging.fhir.publishing import Publishing


def build_patient(studies: Sequence[StudyContract], settings: Publishing) -> dict[str, Any]:
    """Return the Patient of studies of the same patient.

    The name is that of the newest study. Birth date and sex are left out if the studies contradict each other.

    Parameters
    ----------
    studies
        At least one, in any order.
    settings
        The settings of the publication.
    """
    newest_first = sorted(studies, key=_age, reverse=True)
    identifier = patient_identifier(newest_first[0], settings)
    names = (human_names(study.PatientName) for study in newest_first)
    return filled(
        {
            "resourceType": "Patient",
            "id": patient_id(newest_first[0], settings),
            "identifier": [identifier] if identifier else [],
            "name": next((name for name in names if name), []),
            "gender": _undisputed(gender(study.PatientSex) for study in newest_first),
            "birthDate": _undisputed(day(study.PatientBirthDate) for study in newest_first),
        }
    )


def _age(study: StudyContract) -> tuple[str, str, str]:
    return day(study.StudyDate) or "", study.StudyTime or "", study.StudyInstanceUID


def _undisputed(values: Iterable[str | None]) -> str | None:
    distinct = {value for value in values if value is not None}
    return distinct.pop() if len(distinct) == 1 else None
