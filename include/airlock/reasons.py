"""The closed list of reason codes: the same code in the verdict, the report, the console and the docs.

A code never carries data; what AWS or a parser said is kept beside it as *detail* and is not parsed for meaning.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why an arrival or a study is not simply released. ``sentence`` tells a person what to do about it."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Reason:
        """Make a member whose value is the code and which carries its sentence."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    # What parse finds out about the object itself
    EMPTY_OBJECT = "empty_object", "The object has no bytes: ask the sender for the file again."
    SIDECAR = "sidecar", "A file that lies beside a delivery and was never part of it: nothing to do."
    DICOMDIR = (
        "dicomdir",
        "A media directory, not an instance: nothing to do, the files it names are taken by themselves.",
    )
    NOT_DICOM = "not_dicom", "No DICOM was found in the object: check what the sender put under this name."
    NOT_FHIR = (
        "not_fhir",
        "No FHIR was found in the object, no lines of JSON and no Bundle: check what the sender put under this name.",
    )
    GZIP_ENCODED = "gzip_encoded", "The object is gzip-encoded, which HealthImaging refuses: store it uncompressed."
    NO_PREAMBLE = (
        "no_preamble",
        "The data set has no Part 10 preamble and file meta group: convert it to a Part 10 file.",
    )
    TRUNCATED = "truncated", "The object ends before its data set does: ask the sender for the whole file."
    UNREADABLE = (
        "unreadable",
        "The header cannot be read; the detail names the error: repair the file or ask for it again.",
    )
    HEADER_TOO_LONG = (
        "header_too_long",
        "The wanted attributes lie behind more bytes than parse.max_header_mib allows: raise it.",
    )
    OBJECT_CHANGED = (
        "object_changed",
        "The object was replaced after it was listed: the next run takes the new version.",
    )
    OBJECT_GONE = "object_gone", "The object was deleted after it was listed: put it back if it is wanted."
    ACCESS_DENIED = "access_denied", "S3 refuses the object: give the role s3:GetObject, and kms:Decrypt on its key."

    # What parse finds out about one line, one Bundle entry or one C-CDA document
    NOT_JSON = "not_json", "The line is no JSON object that FHIR could read: ask the sender for the resource again."
    RESOURCE_TOO_LARGE = (
        "resource_too_large",
        "The resource has more bytes than parse.resource_mib allows: raise it, if the data store takes such a one.",
    )
    MIXED_FILE = (
        "mixed_file",
        "Bundles and single resources are mixed in one file: send the Bundles in files of their own.",
    )
    UNKNOWN_RESOURCE_TYPE = "unknown_resource_type", "The resourceType is missing or no type of FHIR R4: correct it."
    MISSING_RESOURCE_ID = "missing_resource_id", "The resource has no id to be kept under: have the sender give it one."
    INVALID_RESOURCE_ID = (
        "invalid_resource_id",
        "The id is none that FHIR allows, 1 to 64 of A-Z, a-z, 0-9, '-' and '.': have the sender give it another.",
    )
    FHIR_VERSION = (
        "fhir_version",
        "The resource is written for another version of FHIR than R4, the detail names what shows it: convert it.",
    )
    UNSUPPORTED_ENTRY = (
        "unsupported_entry",
        "The Bundle's entry asks for more than to store its resource, see the detail: have it sent as a plain PUT.",
    )
    NOT_XML = "not_xml", "The document is no well-formed XML: ask the sender for it again."
    XML_ENTITY = "xml_entity", "The document declares a DTD or entities, which are never expanded: have them removed."
    NOT_CCDA = "not_ccda", "The document is no ClinicalDocument of CDA R2: check what the sender put under this name."
    DOCUMENT_WITHOUT_ID = "document_without_id", "The ClinicalDocument has no id: have the sender give it one."

    # File rules
    MISSING_TRANSFER_SYNTAX_UID = "missing_transfer_syntax_uid", "TransferSyntaxUID (0002,0010) is missing: add it."
    MISSING_SOP_CLASS_UID = "missing_sop_class_uid", "SOPClassUID (0008,0016) is missing or empty: add it."
    MISSING_SOP_INSTANCE_UID = "missing_sop_instance_uid", "SOPInstanceUID (0008,0018) is missing or empty: add it."
    MISSING_STUDY_INSTANCE_UID = (
        "missing_study_instance_uid",
        "StudyInstanceUID (0020,000D) is missing or empty: add it.",
    )
    MISSING_SERIES_INSTANCE_UID = (
        "missing_series_instance_uid",
        "SeriesInstanceUID (0020,000E) is missing or empty: add it.",
    )
    INVALID_UID = "invalid_uid", "A UID is not legal (PS3.5 section 9.1), the detail names the attribute: correct it."
    ELEMENT_TOO_LONG = (
        "element_too_long",
        "A value is longer than HealthImaging takes, the detail names the attribute: shorten it.",
    )
    COUNT_OUT_OF_RANGE = (
        "count_out_of_range",
        "A count of related series or instances is above HealthImaging's limit: correct it.",
    )
    FILE_TOO_LARGE = (
        "file_too_large",
        "The file is larger, or holds more, than the service or the settings allow: split it, or raise the setting.",
    )
    UNKNOWN_TRANSFER_SYNTAX = (
        "unknown_transfer_syntax",
        "HealthImaging does not know this transfer syntax: transcode the file.",
    )
    UNDECODABLE_TEXT = (
        "undecodable_text",
        "Text does not fit SpecificCharacterSet (0008,0005): correct the character set.",
    )
    NO_PIXEL_DATA = (
        "no_pixel_data",
        "The file is of an image SOP class and ends before its pixel data: ask the sender whether it is whole.",
    )

    # Resource rules
    INVALID_RESOURCE = "invalid_resource", "The resource breaks FHIR R4, the detail names where: correct it."
    CONTROL_CHARACTER = (
        "control_character",
        "A text holds a control character that FHIR R4 forbids, the detail names where: have the sender remove it.",
    )
    SERVICE_FINDS_INVALID = (
        "service_finds_invalid",
        "The data store's $validate finds errors, the detail names where; the OperationOutcome is kept: correct it.",
    )
    UNRESOLVED_REFERENCE = (
        "unresolved_reference",
        "The resource refers to one that is neither in the delivery nor in the data store: send that one too.",
    )

    # Study rules: the service's grouping elements
    STUDY_DATE_CONFLICT = (
        "study_date_conflict",
        "StudyDate differs within the study: decide which is right and correct the rest.",
    )
    ACCESSION_NUMBER_CONFLICT = (
        "accession_number_conflict",
        "AccessionNumber differs within the study: decide which is right and correct the rest.",
    )
    PATIENT_ID_CONFLICT = "patient_id_conflict", "PatientID differs within the study: find out whose study this is."
    ISSUER_CONFLICT = "issuer_conflict", "IssuerOfPatientID differs within the study: find out whose study this is."
    STUDY_ID_CONFLICT = (
        "study_id_conflict",
        "StudyID differs within the study: decide which is right and correct the rest.",
    )
    SERIES_NUMBER_CONFLICT = "series_number_conflict", "SeriesNumber differs within the series: decide which is right."
    SERIES_IN_TWO_STUDIES = (
        "series_in_two_studies",
        "One SeriesInstanceUID in two studies: one of them needs a new UID.",
    )

    # Duplicate rules
    DUPLICATE_SAME_CONTENT = (
        "duplicate_same_content",
        "The same instance with the same content was taken already: nothing to do.",
    )
    INSTANCE_CLAIMED = (
        "instance_claimed",
        "Another run holds the same instance and has not imported it yet: see that this run ends well.",
    )
    DUPLICATE_OTHER_CONTENT = (
        "duplicate_other_content",
        "The same SOPInstanceUID, or resource type and id, comes with other content: find out which one is right.",
    )
    NEWER_CONTENT = (
        "newer_content",
        "A newer file has brought it with other content, which no redrive writes over: send it anew if it is right.",
    )

    # What a person had done
    IMAGE_SET_DELETED = (
        "image_set_deleted",
        "A person had the non-primary image set with it deleted: put the corrected file under its key if it is wanted.",
    )

    # What audit finds out
    REJECTED = (
        "rejected",
        "The service did not import it, the detail is its message: correct it and send it again.",
    )
    SERVER_ERROR = "server_error", "The service failed on its own side: take it through again."
    SERVICE_WARNING = (
        "service_warning",
        "HealthImaging imported the file with a warning (see detail): check the image set, then review or exempt it.",
    )
    NON_PRIMARY = (
        "non_primary",
        "The file went into a non-primary image set, since it contradicts the primary one: resolve the conflict.",
    )
    VERSION_ABOVE_ONE = (
        "version_above_one",
        "The image set was changed by an import of the same instance: compare the two.",
    )
    NOT_IN_MANIFEST = (
        "not_in_manifest",
        "The job's result files do not name it, or contradict themselves: take it through again.",
    )
    MANIFEST_MISSING = "manifest_missing", "The job wrote no manifest in time: check the output bucket and clear audit."
    JOB_FAILED = (
        "job_failed",
        "The import job failed, the detail is its message: remove the cause and take the file through again.",
    )
    JOB_NOT_STARTED = "job_not_started", "No import job took the file: see the import task's log and clear it."
    JOB_UNFINISHED = (
        "job_unfinished",
        "The import job had not ended when the run stopped waiting: clear import, it takes the job up again.",
    )
    READ_BACK_MISMATCH = "read_back_mismatch", "The data store does not hold what was sent: compare it with the source."
    STORED_WITH_ISSUES = (
        "stored_with_issues",
        "The data store kept the resource though it is invalid (minimal validation): have it reviewed.",
    )
    CONVERSION_FAILED = (
        "conversion_failed",
        "The document was not converted, the detail is the service's message: correct it and send it again.",
    )
    CONVERSION_MISSING = (
        "conversion_missing",
        "The conversion job left neither a result nor an error for the document: take it through again.",
    )
    CONVERSION_DRIFT = (
        "conversion_drift",
        "The conversion covers less of the document than transformation.min_coverage asks: have the profile extended.",
    )
    UNDECIDED = "undecided", "The run stopped before it decided on the file: see the failed task and clear it."

    # Why a whole study, patient or file is held
    NOT_PUBLISHED = (
        "not_published",
        "The study is imported, but its FHIR resources are not proven in HealthLake: see the tasks of the group fhir.",
    )
    AWAITING_REVIEW = "awaiting_review", "A person has to approve it before it goes downstream: answer the review."
    PATIENT_HELD = "patient_held", "Another resource of the patient needs a decision first: see that one's reason."
    FILE_HELD = "file_held", "Another resource of the file needs a decision first: see that one's reason."
    RESOURCES_SET_ASIDE = (
        "resources_set_aside",
        "Not every resource of the file was released: see their own rows and reasons.",
    )
    STUDY_INCOMPLETE = (
        "study_incomplete",
        "Another file of the study was not imported: repair that file and put it back, then the study is released.",
    )
    STUDY_HELD = "study_held", "A file of this study needs a decision: see the reason of each file."
    JOB_COUNTS_DISAGREE = (
        "job_counts_disagree",
        "The job's counts differ from the batch's list: look at its output and prefix.",
    )
    RUN_UNBALANCED = (
        "run_unbalanced",
        "The run's books do not balance, so all of it is held: see the report's discrepancies.",
    )


SENTENCES: dict[str, str] = {str(reason): reason.sentence for reason in Reason}
