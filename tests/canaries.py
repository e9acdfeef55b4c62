"""Deliveries of which every name could be a patient's: keys, folders, file names, and what is in the files."""

from __future__ import annotations

from airlock_local.sample.ccda.documents import ccd
from tests.clinical_files import allergy, ndjson, observation, packed, patient, transaction
from tests.dicom_files import ROOT, ct

CANARY = "CANARYX"
FOLDER = f"{CANARY}^JANE"
NAMES = (CANARY.lower(), ROOT)  # what must not be seen, in lower case
GONE = f"{FOLDER}/{CANARY} gone"  # a file that is deleted when a run has claimed it
_DICOM = dict.fromkeys(("PatientID", "PatientName", "AccessionNumber", "StudyDescription", "StudyID"), CANARY)
_WHO = {"identifier": [{"system": "urn:oid:1.2.3.4", "value": CANARY}], "name": [{"family": CANARY}]}
_ID = f"{CANARY}-1"


def images() -> dict[str, bytes]:
    """Return two studies, one in a folder of its own, the other held since a file of it is cut off."""
    files = {f"whole/1-{number}.dcm": ct(1, 1, number, **_DICOM) for number in (1, 2)}
    files |= {"2-1.dcm": ct(2, 1, 1, **_DICOM), "2-2.dcm": ct(2, 1, 2, **_DICOM)[:-100]}
    return _named(files)


def records() -> dict[str, bytes]:
    """Return a patient's resources as lines, gzip and Bundle, one of them about a patient that is not there."""
    weights = (observation(f"{_ID}-{number}", of=_ID, note=[{"text": CANARY}]) for number in range(2))
    return _named(
        {
            "Patient.ndjson": ndjson(patient(_ID, **_WHO), patient(f"{_ID}-b", gender=CANARY, **_WHO)),
            "Observation.ndjson.gz": packed(*weights, observation(f"{_ID}-far", of=f"{CANARY}-9")),
            "rejected.ndjson": ndjson(observation(f"{_ID}-b", of=f"{_ID}-b")),
            # waits for a visit that is not there, and holds its patient where that is asked for
            "Allergy.ndjson": ndjson(allergy(f"{_ID}-late", of=_ID, encounter={"reference": f"Encounter/{CANARY}-9"})),
            "visit.json": transaction(patient(f"{_ID}-c", **_WHO), observation(f"{_ID}-c", of=f"{_ID}-c")),
        }
    )


def documents() -> dict[str, bytes]:
    """Return two documents, the second of them not well-formed."""
    named = ccd(1).replace(b"Testcase", CANARY.encode()).replace(b"patient-1", _ID.encode())
    return _named({"1.xml": named, "2.xml": named.replace(b"doc-1", b"doc-2")[:-30]})


def absurd(kind: str) -> dict[str, bytes]:
    """Return a delivery to a kind of pipeline of which half cannot be read."""
    if kind == "imaging":
        return _named({f"{n}.dcm": ct(n, 1, 1, **_DICOM)[: None if n % 2 else 400] for n in range(1, 13)})
    people = [patient(f"{_ID}-{number}", **_WHO) for number in range(6)]
    return _named({"Patient.ndjson": ndjson(*people, *[f'{{"id": "{CANARY}"'] * 6)})


def replaced(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return other contents for all files of a delivery."""
    return {name: body + b"\n" for name, body in files.items() if name != GONE}


def _named(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{FOLDER}/{CANARY} {name}": body for name, body in files.items()}
