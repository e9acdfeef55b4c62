"""The series of an examination, and the part of the header that all its instances share."""

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from airlock_local.sample.instances import MAKERS
from airlock_local.sample.part10 import make_code, make_file, make_item, make_sequence, make_uid, set_attribute
from airlock_local.sample.pixels import encode_pixels
from airlock_local.sample.sites import Patient, Site


@dataclass(frozen=True)
class SeriesPlan:
    """One series of an examination: a key of MAKERS, the number of instances, and their transfer syntax."""

    maker: str
    instances: int
    transfer_syntax: str | None = None
    """None takes the site's own."""


@dataclass(frozen=True)
class Examination:
    """A kind of examination, with its folder title and its description."""

    title: str
    description: str
    series: tuple[SeriesPlan, ...]


# Examination, and how often each site did it.
CLEAN_PLAN: tuple[tuple[int, Examination], ...] = (
    (13, Examination("Röntgen", "XR CHEST PA", (SeriesPlan("CR", 1),))),
    (4, Examination("Hand", "XR HAND", (SeriesPlan("DX", 2),))),
    (4, Examination("CT Thorax", "CT THORAX", (SeriesPlan("CT", 4),))),
    (2, Examination("CT Abdomen", "CT ABDOMEN", (SeriesPlan("CT", 3), SeriesPlan("SR_ENHANCED", 1)))),
    (3, Examination("MR Schädel", "MR HEAD", (SeriesPlan("MR", 3), SeriesPlan("MR", 2)))),
    (1, Examination("MR Knie", "MR KNEE", (SeriesPlan("MR_LONG_HEADER", 2),))),
    (3, Examination("Sono", "US ABDOMEN", (SeriesPlan("US", 2),))),
    (1, Examination("Echo", "US HEART", (SeriesPlan("US_CINE", 1),))),
    (1, Examination("Altarchiv", "XR SKULL", (SeriesPlan("CR", 1, ExplicitVRBigEndian),))),
    (1, Examination("Hand kompr", "XR FOOT", (SeriesPlan("DX", 1, JPEG2000Lossless),))),
    (
        3,
        Examination("Befund", "XR SPINE", (SeriesPlan("CR", 1), SeriesPlan("SR", 1, DeflatedExplicitVRLittleEndian))),
    ),
    (1, Examination("CT Mehrschicht", "CT PELVIS", (SeriesPlan("CT_ENHANCED", 1),))),
    (1, Examination("MR Mehrschicht", "MR SPINE", (SeriesPlan("MR_ENHANCED", 1),))),
    (1, Examination("Röntgen + Brief", "XR KNEE", (SeriesPlan("CR", 1), SeriesPlan("PDF", 1)))),
    (1, Examination("Sono kompr", "US NECK", (SeriesPlan("US_GREY", 2, JPEGBaseline8Bit),))),
    (1, Examination("Sono RLE", "US LEG", (SeriesPlan("US", 2, RLELossless),))),
    (1, Examination("CT kompr", "CT SINUS", (SeriesPlan("CT", 2, JPEGLosslessSV1),))),
)
PLAIN_CT = Examination("CT Kopf", "CT HEAD", (SeriesPlan("CT", 3),))
DATES = ("2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05", "2026-03-06")


@dataclass(frozen=True)
class Study:
    """One examination of one patient at one site; `number` is unique in the archive."""

    seed: int
    number: int
    site: Site
    patient: Patient
    date: str
    examination: Examination

    @property
    def uid(self) -> UID:
        """Study Instance UID."""
        return make_uid(self.seed, "study", self.number)

    @property
    def accession_number(self) -> str:
        """Accession Number, at most 16 characters (SH)."""
        return f"{self.site.accession_prefix}26{self.number:06d}"

    def series_uid(self, series: int) -> UID:
        """Series Instance UID of series number `series`."""
        return make_uid(self.seed, "series", self.number, series)

    def sop_uid(self, series: int, instance: int) -> UID:
        """SOP Instance UID of one instance."""
        return make_uid(self.seed, "instance", self.number, series, instance)

    def plan(self, series: int) -> SeriesPlan:
        """Return the plan of series number `series`, counted from 1."""
        return self.examination.series[series - 1]

    def transfer_syntax(self, series: int) -> str:
        """Return the transfer syntax in which series number `series` is stored."""
        return self.plan(series).transfer_syntax or self.site.transfer_syntax

    def path(self, series: int, instance: int) -> str:
        """Return where the archive keeps one instance, relative to the archive's folder."""
        values = {
            "date": self.date,
            "accession": self.accession_number,
            "title": self.examination.title,
            "modality": MAKERS[self.plan(series).maker].modality,
            "number": self.number,
            "series": series,
            "instance": instance,
        }
        return f"{self.site.folder}/{self.site.layout.format(**values)}"

    def data_set(self, series: int, instance: int, **changes: object) -> Dataset:
        """Return one instance; `changes` overrides attributes by keyword, None removes one."""
        maker = MAKERS[self.plan(series).maker]
        ds = self._header(series, instance)
        ds.Modality, ds.SOPClassUID = maker.modality, maker.sop_class
        maker.build(ds)
        for keyword, value in changes.items():
            set_attribute(ds, keyword, value)
        return ds

    def file(self, series: int, instance: int, **changes: object) -> bytes:
        """Return one instance as a Part 10 file; see `data_set`."""
        ds, transfer_syntax = self.data_set(series, instance, **changes), self.transfer_syntax(series)
        encode_pixels(ds, transfer_syntax)
        return make_file(ds, transfer_syntax)

    def _header(self, series: int, instance: int) -> Dataset:
        """Patient, study, series and equipment modules, and the private block that every vendor adds."""
        ds = Dataset()
        if self.patient.SpecificCharacterSet:
            ds.SpecificCharacterSet = list(self.patient.SpecificCharacterSet)
        self._patient_and_study(ds)
        self._series_and_equipment(ds, series)
        ds.SOPInstanceUID = self.sop_uid(series, instance)
        ds.InstanceNumber = instance
        ds.ContentDate, ds.ContentTime = ds.StudyDate, f"{8 + self.number % 10:02d}{10 + instance:02d}30"
        ds.RequestAttributesSequence = make_sequence(self._request())
        block = ds.private_block(0x0019, f"{self.site.Manufacturer.upper()} 01", create=True)
        block.add_new(0x01, "LO", f"protocol {self.number}")
        block.add_new(0x02, "DS", [f"{self.number}.5", f"{instance}.25"])
        block.add_new(0x10, "OB", bytes(range(64)))
        return ds

    def _patient_and_study(self, ds: Dataset) -> None:
        patient = self.patient
        ds.PatientID, ds.IssuerOfPatientID = patient.PatientID, self.site.IssuerOfPatientID
        ds.PatientName, ds.PatientBirthDate, ds.PatientSex = (
            patient.PatientName,
            patient.PatientBirthDate,
            patient.PatientSex,
        )
        ds.StudyInstanceUID, ds.StudyID = self.uid, str(self.number)
        ds.AccessionNumber = self.accession_number
        ds.StudyDate = self.date.replace("-", "")
        ds.StudyTime = f"{8 + self.number % 10:02d}{self.number % 60:02d}00"
        ds.StudyDescription = f"{self.examination.description} {patient.phrase}"
        ds.ReferringPhysicianName = "Referrer^Rita^^Dr."

    def _series_and_equipment(self, ds: Dataset, series: int) -> None:
        ds.SeriesInstanceUID, ds.SeriesNumber = self.series_uid(series), series
        ds.SeriesDate, ds.SeriesTime = ds.StudyDate, ds.StudyTime
        ds.SeriesDescription = f"{self.examination.description} {series}"
        ds.InstitutionName, ds.Manufacturer = self.site.InstitutionName, self.site.Manufacturer
        ds.ManufacturerModelName, ds.StationName = "Sample One", f"{self.site.accession_prefix}ST{series:02d}"
        ds.DeviceSerialNumber, ds.SoftwareVersions = "000001", "1.0"

    def _request(self) -> Dataset:
        """Item of the Request Attributes Sequence, the standard's place for the Requested Procedure ID."""
        return make_item(
            RequestedProcedureID=f"RP{self.number:06d}",
            RequestedProcedureDescription=self.examination.description,
            ScheduledProcedureStepID=f"SPS{self.number:06d}",
            ScheduledProtocolCodeSequence=make_sequence(make_code("P1", "99SAMPLE", "Standard protocol")),
        )
