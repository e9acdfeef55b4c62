"""Patient: one per identity, merged from all its released studies, the newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.imaging.fhir.identifiers import patient_id, patient_identifier
from airlock.imaging.fhir.values import day, filled, gender, human_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.imaging.contracts import StudyContract
    from airlock.imaging.fhir.publishing import Publishing


def build_patient(studies: Sequence[StudyContract], settings: Publishing) -> dict[str, Any]:
    """Return the Patient of studies of the same patient.

    Name, birth date and sex are each those of the newest study that has one, so that no later study removes them.

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
    genders = (gender(study.PatientSex) for study in newest_first)
    birth_dates = (day(study.PatientBirthDate) for study in newest_first)
    return filled(
        {
            "resourceType": "Patient",
            "id": patient_id(newest_first[0], settings),
            "identifier": [identifier] if identifier else [],
            "name": next((name for name in names if name), []),
            "gender": next(filter(None, genders), None),
            "birthDate": next(filter(None, birth_dates), None),
        }
    )


def _age(study: StudyContract) -> tuple[str, str, str]:
    return day(study.StudyDate) or "", study.StudyTime or "", study.StudyInstanceUID
