"""The three invented sites of the sample archive and their invented patients."""

from dataclasses import dataclass, replace

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

LATIN_1 = ("ISO_IR 100",)
CYRILLIC = ("ISO_IR 144",)
UTF_8 = ("ISO_IR 192",)
JAPANESE = ("", "ISO 2022 IR 87")
CHINESE = ("GB18030",)
ASCII: tuple[str, ...] = ()


@dataclass(frozen=True)
class Patient:
    """A person who does not exist; field names are DICOM keywords."""

    PatientID: str
    PatientName: str
    PatientBirthDate: str
    PatientSex: str
    SpecificCharacterSet: tuple[str, ...] = ASCII
    phrase: str = "ROUTINE"
    """Goes into descriptions, so that they too need the character set."""


@dataclass(frozen=True)
class Site:
    """A hospital that does not exist."""

    folder: str
    InstitutionName: str
    IssuerOfPatientID: str
    accession_prefix: str
    Manufacturer: str
    transfer_syntax: str
    layout: str
    """Path of a file below the site's folder, a format string."""
    patients: tuple[Patient, ...]


NORDHAVEN = Site(
    folder="nordhaven",
    InstitutionName="Nordhaven Klinikum (invented)",
    IssuerOfPatientID="NORDHAVEN",
    accession_prefix="NH",
    Manufacturer="Fjordscan Imaging",
    transfer_syntax=ExplicitVRLittleEndian,
    layout="{date}/{accession} {title}/SE{series:03d}/IM{instance:04d}.dcm",
    patients=(
        Patient("NH-100001", "Musterfrau^Zoë", "19610412", "F", LATIN_1, "Übersicht"),
        Patient("NH-100002", "Beispiel^Jürgen^^Dr.", "19480930", "M", LATIN_1, "Verlaufskontrolle für Ärzte"),
        Patient("NH-100003", "Testperson^Éloïse", "19850107", "F", LATIN_1, "Contrôle précoce"),
        Patient("NH-100004", "Probe^Max", "20010519", "M"),
        Patient("NH-100005", "Vzorek^Žofie", "19720808", "F", UTF_8, "příprava"),
        Patient("NH-100006", "Eksempel^Bjørn Ægir", "19931224", "M", LATIN_1, "før operasjon"),
    ),
)

SAKURAGAWA = Site(
    folder="sakuragawa",
    InstitutionName="Sakuragawa Hospital (invented)",
    IssuerOfPatientID="SAKURAGAWA",
    accession_prefix="SK",
    Manufacturer="Hoshi Medical Systems",
    transfer_syntax=ImplicitVRLittleEndian,
    layout="{date}/{accession}/{series}/{instance:08d}",
    patients=(
        Patient("SK2000011", "Kakuu^Hanako=架空^花子=かくう^はなこ", "19700315", "F", JAPANESE, "胸部検査"),
        Patient("SK2000022", "Mihon^Jiro=見本^次郎=みほん^じろう", "19551103", "M", JAPANESE, "経過観察"),
        Patient("SK2000033", "Ceshi^Yangben=测试^样本", "19890622", "O", CHINESE, "复查"),
        Patient("SK2000044", "Xuni^Bingren=虚拟^病人", "19640201", "M", CHINESE, "术前检查"),
        Patient("SK2000055", "Dummy^Taro", "20100730", "M"),
        Patient("SK2000066", "Rei^Mina=例^美奈=れい^みな", "19990909", "F", UTF_8, "再検査"),
    ),
)

LAKEVIEW = Site(
    folder="lakeview",
    InstitutionName="Lakeview Diagnostic Centre (invented)",
    IssuerOfPatientID="LAKEVIEW",
    accession_prefix="LV",
    Manufacturer="Prairie Radiographic",
    transfer_syntax=ExplicitVRLittleEndian,
    layout="{date}/{modality}+{number:04d}/série {series}/{instance:03d}.dcm",
    patients=(
        Patient("300017", "Placeholder^Peggy", "19580117", "F"),
        Patient("300024", "Вымышленный^Иван", "19770228", "M", CYRILLIC, "контроль"),
        Patient("300031", "Примерова^Анна^Тестовна", "19911010", "F", CYRILLIC, "первичный осмотр"),
        Patient("300048", "Fictional^Fred^Q^Mr", "19450505", "M"),
        Patient("300055", "Δοκιμή^Ελένη", "19830704", "F", UTF_8, "έλεγχος"),
        Patient("300062", "Nobody^Noël", "20150411", "O", UTF_8, "après réduction"),
    ),
)

SITES = (NORDHAVEN, SAKURAGAWA, LAKEVIEW)

# Two people whom two sites gave the same number: only the issuer tells them apart.
SHARED_PATIENT_ID = "1004711"
NAMESAKES = {
    site.folder: replace(site.patients[index], PatientID=SHARED_PATIENT_ID)
    for site, index in ((NORDHAVEN, 3), (LAKEVIEW, 3))
}
