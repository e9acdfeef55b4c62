"""A sample of images and records that meet in one Patient: what matches, what does not, and what comes late.

Everything in it is invented. The images are of `NORDHAVEN`, whose numbers the records have in a system of their own.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from airlock_local.sample.archive import Archive, write_files
from airlock_local.sample.clinical.delivery import Resource, compact
from airlock_local.sample.clinical.records import organization, patient
from airlock_local.sample.sites import LATIN_1, NORDHAVEN, Patient
from airlock_local.sample.studies import PLAIN_CT, Study

SEED = 20260309
RECORDS, LATE, IMAGES = "records", "late", "images"  # the folders: what is there, what comes later, and the studies
_ORDER_TYPE = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}


@dataclass(frozen=True)
class Meeting:
    """A study, and what is known of its patient before and after the late records have come.

    Parameters
    ----------
    study
        Its Study Instance UID.
    what
        The situation, in words.
    outcome
        As `airlock.imaging.patient_match.Outcome` says it.
    later
        The same, after the late records.
    patient
        The id of the Patient of the records that the study ends with; None if it gets one of Airlock's own, or none.
    """

    study: str
    what: str
    outcome: str
    later: str
    patient: str | None = None


_MATCHED = Patient("NH-200001", "Muster^Wanda", "19570607", "F")
_ALONE = Patient("NH-200002", "Solo^Henrik", "19880213", "M")
_TWINNED = Patient("NH-200003", "Doppel^Änne", "19790321", "F", LATIN_1)
_UNGUARDED = Patient("NH-200004", "Zweifel^Otto", "19660119", "M")
_CONTRADICTED = Patient("NH-200005", "Wechsel^Rosa", "19940704", "F")
_SOMEBODY = Patient("NH-200006", "Andersen^Liv", "19510530", "F")
_LATE = Patient("NH-200007", "Spät^Emil", "20030911", "M", LATIN_1)
_NOBODY = Patient("UNKNOWN", "Unknown^Trauma", "", "")


def write_one_patient_sample(folder: Path) -> list[Meeting]:
    """Write the sample below `folder`, in the folders `RECORDS`, `LATE` and `IMAGES`.

    Returns
    -------
    list of Meeting
        One for each study.

    Raises
    ------
    OSError
        The folder or a file cannot be written.
    """
    archive = Archive(SEED)
    studies = {one: archive.study(PLAIN_CT, site=NORDHAVEN, patient=one) for one in _people()}
    for study in studies.values():
        archive.add_study(study)
    archive.write(folder / IMAGES)
    write_files(folder, {name: _to_ndjson(resources) for name, resources in _list_records(studies).items()})
    return _list_meetings(studies)


def _people() -> tuple[Patient, ...]:
    """Return the people who have images."""
    return _MATCHED, _ALONE, _TWINNED, _UNGUARDED, _CONTRADICTED, _LATE, _NOBODY


def _list_records(studies: dict[Patient, Study]) -> dict[str, list[Resource]]:
    """Return the resources of the records by their file."""
    known = [_patient(one) for one in (_MATCHED, _TWINNED, _CONTRADICTED, _SOMEBODY)]
    known += [_patient(_TWINNED) | {"id": "nordhaven-nh-200003-again"}]
    known += [_patient(replace(_UNGUARDED, PatientBirthDate="19991231"))]
    orders = [_order(studies[_MATCHED], _MATCHED), _order(studies[_CONTRADICTED], _SOMEBODY)]
    return {
        f"{RECORDS}/Organization.ndjson": [organization(NORDHAVEN)],
        f"{RECORDS}/Patient.ndjson": known,
        f"{RECORDS}/ServiceRequest.ndjson": orders,
        f"{LATE}/Patient.ndjson": [_patient(_LATE)],
        f"{LATE}/ServiceRequest.ndjson": [_order(studies[_LATE], _LATE)],
    }


def _list_meetings(studies: dict[Patient, Study]) -> list[Meeting]:
    def meet(who: Patient, what: str, outcome: str, later: str | None = None) -> Meeting:
        end = later or outcome
        found = _patient(who)["id"] if end == "matched" else None
        return Meeting(str(studies[who].uid), what, outcome, end, found)

    return [
        meet(_MATCHED, "one Patient has the number, and the birth dates agree", "matched"),
        meet(_ALONE, "no Patient has the number", "none"),
        meet(_TWINNED, "two Patients have the number", "ambiguous"),
        meet(_UNGUARDED, "one Patient has the number, with another birth date", "unguarded"),
        meet(_CONTRADICTED, "the order is another Patient's", "contradicted"),
        meet(_LATE, "the Patient and the order come after the images", "none", "matched"),
        meet(_NOBODY, "the number names nobody", "none"),
    ]


def _patient(person: Patient) -> Resource:
    return patient(NORDHAVEN, person)


def _order(study: Study, person: Patient) -> Resource:
    """Return the order of a study, of this person."""
    return {
        "resourceType": "ServiceRequest",
        "id": f"order-{study.accession_number.lower()}",
        "identifier": [{"type": _ORDER_TYPE, "value": study.accession_number}],
        "status": "completed",
        "intent": "order",
        "code": {"text": study.examination.description},
        "subject": {"reference": f"Patient/{_patient(person)['id']}"},
        "authoredOn": study.date,
    }


def _to_ndjson(resources: list[Resource]) -> bytes:
    return "".join(f"{compact(one)}\n" for one in resources).encode()
