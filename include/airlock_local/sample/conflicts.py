"""Studies whose files are sound one by one and contradict each other."""

from pydicom.uid import ExplicitVRLittleEndian

from airlock_local.sample.archive import HELD, ONE_OF_TWO, QUARANTINED, STOPPED, WHOLE_STUDY_WAITS, Archive, expect
from airlock_local.sample.sites import NAMESAKES, SITES
from airlock_local.sample.studies import PLAIN_CT, Examination, SeriesPlan

TWO_SERIES = Examination("CT 2 Serien", "CT SPINE", (SeriesPlan("CT", 1), SeriesPlan("CT", 1)))
TWO_SLICES = Examination("CT 2 Bilder", "CT SPINE", (SeriesPlan("CT", 2, ExplicitVRLittleEndian),))

# Trouble, the values of the last instance that contradict the others, and the reason code.
CONFLICTS: tuple[tuple[str, dict[str, object], str], ...] = (
    ("two_study_dates", {"StudyDate": "20260227"}, "study_date_conflict"),
    ("two_accession_numbers", {"AccessionNumber": "XX26999999"}, "accession_number_conflict"),
    ("two_patient_ids", {"PatientID": "XX-999999"}, "patient_id_conflict"),
    ("two_issuers", {"IssuerOfPatientID": "ELSEWHERE"}, "issuer_conflict"),
    ("two_study_ids", {"StudyID": "S-999"}, "study_id_conflict"),
    ("two_series_numbers", {"SeriesNumber": 9}, "series_number_conflict"),
)


def add_conflicts(archive: Archive) -> None:
    """Add a study for each way in which files can contradict each other."""
    for trouble, changes, reason in CONFLICTS:
        study = archive.study()
        expected = expect(trouble, STOPPED, reason, *WHOLE_STUDY_WAITS)
        for instance in (1, 2, 3):
            data = study.file(1, instance, **(changes if instance == 3 else {}))
            archive.add_instance(study, 1, instance, data=data, expected=expected)
    _add_series_in_two_studies(archive)
    _add_duplicate(archive)
    _add_same_uid_other_content(archive)
    _add_uid_in_two_series(archive)
    _add_namesakes(archive)


def _add_series_in_two_studies(archive: Archive) -> None:
    site = SITES[0]
    first, second = (archive.study(TWO_SLICES, site=site, patient=site.patients[0]) for _ in range(2))
    expected = expect("series_in_two_studies", STOPPED, "series_in_two_studies", *WHOLE_STUDY_WAITS)
    for study in (first, second):
        archive.add_study(study, expected, SeriesInstanceUID=first.series_uid(1))


def _add_duplicate(archive: Archive) -> None:
    """Add a clean study, and one of its files a second time under another name."""
    study = archive.study(TWO_SLICES)
    twin = study.path(1, 2)
    archive.add_instance(study, 1, 1)
    expected = expect("duplicate", ONE_OF_TWO, "duplicate_same_content")
    data = study.file(1, 2)
    archive.add_instance(study, 1, 2, data=data, expected=expected)
    archive.add(_resent(twin), data, modality="CT", expected=expected)


def _resent(path: str) -> str:
    """Return the path of a file that the archive has a second time."""
    site, rest = path.split("/", 1)
    return f"{site}/resent/{rest}"


def _add_same_uid_other_content(archive: Archive) -> None:
    study = archive.study(Examination("CT Doppelt", "CT NECK", (SeriesPlan("CT", 1),)))
    expected = expect("same_uid_other_content", QUARANTINED, "duplicate_other_content")
    archive.add_instance(study, 1, 1, expected=expected)
    other = study.file(1, 1, SeriesDescription="REPROCESSED")
    archive.add(_resent(study.path(1, 1)), other, modality="CT", expected=expected)


def _add_uid_in_two_series(archive: Archive) -> None:
    study = archive.study(TWO_SERIES)
    expected = expect("uid_in_two_series", HELD, "identity_changed")
    archive.add_study(study, expected, SOPInstanceUID=study.sop_uid(1, 1))


def _add_namesakes(archive: Archive) -> None:
    """Add clean studies of two people to whom two sites gave one number: never merged, both released."""
    for site in SITES:
        if patient := NAMESAKES.get(site.folder):
            archive.add_study(archive.study(PLAIN_CT, site=site, patient=patient))
