"""The closed list of reason codes, used by verdicts, reports, the console and the docs alike.

A code never carries data. The message of AWS or of a parser is kept beside it as *detail*; no code depends on it.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why an arrival or a study is not released as it came; ``sentence`` says what is wrong and what a person does."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Reason:
        """Make a member whose value is the code and which carries its sentence."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    # Parse, of an object
    EMPTY_OBJECT = "empty_object", "The object has no bytes. Ask the sender for the file again."
    SIDECAR = "sidecar", "This file accompanies a delivery and is not part of its data. Nothing to do."
    DICOMDIR = (
        "dicomdir",
        "This is a media directory, not an instance. Nothing to do: the files that it lists arrive by themselves.",
    )
    NOT_DICOM = "not_dicom", "The object is not DICOM. Check what the sender stored under this name."
    NOT_FHIR = (
        "not_fhir",
        "The object holds neither JSON lines nor a Bundle of FHIR. Check what the sender stored under this name.",
    )
    GZIP_ENCODED = "gzip_encoded", "The object is gzip-encoded, which HealthImaging refuses. Store it uncompressed."
    NO_PREAMBLE = (
        "no_preamble",
        "The file has no DICOM Part 10 preamble and file meta group. Convert it to a Part 10 file.",
    )
    TRUNCATED = "truncated", "The file is cut off. Ask the sender to send it again."
    UNREADABLE = (
        "unreadable",
        "The header cannot be read; the detail names the error. Repair the file or ask the sender for it again.",
    )
    HEADER_TOO_LONG = (
        "header_too_long",
        "The attributes that Airlock needs lie beyond parse.max_header_mib. Raise that setting.",
    )
    OBJECT_CHANGED = (
        "object_changed",
        "The object was replaced after it was listed. Wait for the next run, which takes the new version.",
    )
    OBJECT_GONE = "object_gone", "The object was deleted after it was listed. If it is needed, store it again."
    ACCESS_DENIED = (
        "access_denied",
        "S3 refuses the object. Grant the role s3:GetObject, and kms:Decrypt on the object's key.",
    )

    # Parse, of a line, a Bundle entry or a C-CDA document
    NOT_JSON = (
        "not_json",
        "The line is not a JSON object that can be read as FHIR. Ask the sender for the resource again.",
    )
    RESOURCE_TOO_LARGE = (
        "resource_too_large",
        "The resource has more bytes than parse.resource_mib allows. Raise it if the data store accepts this size.",
    )
    MIXED_FILE = (
        "mixed_file",
        "The file mixes Bundles and single resources. Ask the sender to put the Bundles into files of their own.",
    )
    UNKNOWN_RESOURCE_TYPE = (
        "unknown_resource_type",
        "The resourceType is missing or is not a type of FHIR R4. Ask the sender to correct it.",
    )
    MISSING_RESOURCE_ID = "missing_resource_id", "The resource has no id. Ask the sender to give it one."
    INVALID_RESOURCE_ID = (
        "invalid_resource_id",
        "The id is not valid in FHIR (1 to 64 characters of A-Z, a-z, 0-9, '-' and '.'). Ask the sender for a new one.",
    )
    FHIR_VERSION = (
        "fhir_version",
        "The resource is not written for FHIR R4 (see detail). Convert it to R4.",
    )
    UNSUPPORTED_ENTRY = (
        "unsupported_entry",
        "The Bundle's entry asks for more than to store its resource (see detail). Ask the sender for a plain PUT.",
    )
    NOT_XML = "not_xml", "The document is not well-formed XML. Ask the sender to send it again."
    XML_ENTITY = (
        "xml_entity",
        "The document declares a DTD or entities, which Airlock never expands. Ask the sender to remove them.",
    )
    NOT_CCDA = "not_ccda", "This is not a CDA R2 ClinicalDocument. Check what the sender stored under this name."
    DOCUMENT_WITHOUT_ID = "document_without_id", "The ClinicalDocument has no id. Ask the sender to give it one."

    # Validate, of a file
    MISSING_TRANSFER_SYNTAX_UID = "missing_transfer_syntax_uid", "TransferSyntaxUID (0002,0010) is missing. Add it."
    MISSING_SOP_CLASS_UID = "missing_sop_class_uid", "SOPClassUID (0008,0016) is missing or empty. Add it."
    MISSING_SOP_INSTANCE_UID = "missing_sop_instance_uid", "SOPInstanceUID (0008,0018) is missing or empty. Add it."
    MISSING_STUDY_INSTANCE_UID = (
        "missing_study_instance_uid",
        "StudyInstanceUID (0020,000D) is missing or empty. Add it.",
    )
    MISSING_SERIES_INSTANCE_UID = (
        "missing_series_instance_uid",
        "SeriesInstanceUID (0020,000E) is missing or empty. Add it.",
    )
    INVALID_UID = "invalid_uid", "A UID breaks PS3.5 section 9.1; the detail names the attribute. Correct it."
    ELEMENT_TOO_LONG = (
        "element_too_long",
        "A value is longer than HealthImaging accepts; the detail names the attribute. Shorten it.",
    )
    COUNT_OUT_OF_RANGE = (
        "count_out_of_range",
        "A count of related series or instances exceeds HealthImaging's limit. Correct it.",
    )
    FILE_TOO_LARGE = (
        "file_too_large",
        "The file is larger, or holds more, than the service or the settings allow. Split it, or raise the setting.",
    )
    UNKNOWN_TRANSFER_SYNTAX = (
        "unknown_transfer_syntax",
        "HealthImaging does not support this transfer syntax. Transcode the file.",
    )
    UNDECODABLE_TEXT = (
        "undecodable_text",
        "Text does not fit SpecificCharacterSet (0008,0005). Correct the character set.",
    )
    NO_PIXEL_DATA = (
        "no_pixel_data",
        "The file is of an image SOP class but ends before its pixel data. Ask the sender whether it is complete.",
    )

    # Validate, of a resource
    INVALID_RESOURCE = "invalid_resource", "The resource breaks FHIR R4; the detail names where. Correct it."
    CONTROL_CHARACTER = (
        "control_character",
        "A text holds a control character that FHIR R4 forbids; the detail names where. Ask the sender to remove it.",
    )
    SERVICE_FINDS_INVALID = (
        "service_finds_invalid",
        "The data store's $validate found errors; the detail names where. Correct the resource.",
    )
    UNRESOLVED_REFERENCE = (
        "unresolved_reference",
        "The resource refers to one that is neither in the delivery nor in the data store. Send that resource too.",
    )
    AWAITED_REFERENCE = (
        "awaited_reference",
        "The resource refers to one that another run may bring. Make sure that this other run succeeds.",
    )
    WAITING_FOR_RESOURCE = (
        "waiting_for_resource",
        "The resource refers to one that is not there yet. Nothing to do: it comes in when that one is released.",
    )
    WAITING_FOR_TURN = (
        "waiting_for_turn",
        "The parked resource could not be decided on in this run (see detail). Nothing to do: a later run takes it in.",
    )
    WAITED_TOO_LONG = (
        "waited_too_long",
        "The resource refers to one that did not come in time (see detail). Have that one sent, then redrive this one.",
    )
    DANGLING_REFERENCE = (
        "dangling_reference",
        "The resource refers to one that is nowhere, of a type that is not waited for (see detail). Nothing to do.",
    )

    # Validate, of a study: HealthImaging's grouping elements
    STUDY_DATE_CONFLICT = (
        "study_date_conflict",
        "StudyDate differs within the study. Decide which is right and correct the rest.",
    )
    ACCESSION_NUMBER_CONFLICT = (
        "accession_number_conflict",
        "AccessionNumber differs within the study. Decide which is right and correct the rest.",
    )
    PATIENT_ID_CONFLICT = "patient_id_conflict", "PatientID differs within the study. Find out whose study this is."
    ISSUER_CONFLICT = "issuer_conflict", "IssuerOfPatientID differs within the study. Find out whose study this is."
    STUDY_ID_CONFLICT = (
        "study_id_conflict",
        "StudyID differs within the study. Decide which is right and correct the rest.",
    )
    SERIES_NUMBER_CONFLICT = "series_number_conflict", "SeriesNumber differs within the series. Decide which is right."
    SERIES_IN_TWO_STUDIES = (
        "series_in_two_studies",
        "Two studies have the same SeriesInstanceUID. Give the series in one of them a new UID.",
    )

    # Validate, of duplicates
    DUPLICATE_SAME_CONTENT = (
        "duplicate_same_content",
        "The same instance with the same content was already taken. Nothing to do.",
    )
    INSTANCE_CLAIMED = (
        "instance_claimed",
        "Another run holds the same instance and has not imported it yet. Make sure that this other run succeeds.",
    )
    DUPLICATE_OTHER_CONTENT = (
        "duplicate_other_content",
        "The same SOPInstanceUID, or resource type and id, has different content. Ask the sender which is right.",
    )
    HEADER_CHANGED = (
        "header_changed",
        "The instance has the same pixels under another header in another copy, which stays. Check which one is right.",
    )
    IDENTITY_CHANGED = (
        "identity_changed",
        "The same SOPInstanceUID names another patient, study or series in another copy. Find out whose image it is.",
    )
    NEWER_CONTENT = (
        "newer_content",
        "Newer content of the same resource is there, which nothing older overwrites. If this is right, send it again.",
    )
    ORDER_UNKNOWN = (
        "order_unknown",
        "The declared order does not tell which content is newer. Ask the sender for the time, or send it again.",
    )
    FUTURE_TIMESTAMP = (
        "future_timestamp",
        "The content's time is in the future, so it does not replace what is there. Correct the sender's clock.",
    )

    # Redrive
    IMAGE_SET_DELETED = (
        "image_set_deleted",
        "A redrive deleted the image set that held this file. If the file is needed, store it corrected under its key.",
    )

    # Audit, of a file, a resource or a document
    REJECTED = (
        "rejected",
        "The service did not import it; the detail is the service's message. Correct it and send it again.",
    )
    SERVER_ERROR = "server_error", "The service failed with an error of its own. Redrive it."
    SERVICE_WARNING = (
        "service_warning",
        (
            "HealthImaging imported the file with a warning (see detail). Check the image set, then approve it or add "
            "the warning to audit.harmless_warnings."
        ),
    )
    NON_PRIMARY = (
        "non_primary",
        "The file contradicts its study and went into a non-primary image set. Redrive it to promote or delete that.",
    )
    PRIMARY_UNKNOWN = (
        "primary_unknown",
        (
            "The job's result line does not say whether the file's image set is the study's primary one. Look at the "
            "image set, and approve the file if it is."
        ),
    )
    VERSION_ABOVE_ONE = (
        "version_above_one",
        "Another import of the same instance changed the image set. Compare the two imports.",
    )
    NOT_IN_MANIFEST = (
        "not_in_manifest",
        "The job's result files do not name it, or contradict each other. Redrive it.",
    )
    REPLACED_DURING_IMPORT = (
        "replaced_during_import",
        (
            "The object was replaced or deleted while its job imported it in place, so nobody knows what the data "
            "store holds. Compare its image set with the source; the next run takes the new object."
        ),
    )
    MANIFEST_MISSING = (
        "manifest_missing",
        "The job wrote no manifest in time. Check the output bucket, then clear audit.",
    )
    JOB_FAILED = (
        "job_failed",
        "The import job failed; the detail is its message. Remove the cause, then redrive the file.",
    )
    JOB_NOT_STARTED = (
        "job_not_started",
        "No import job took the file. See the log of the task that failed, stage or import, then clear that task.",
    )
    JOB_UNFINISHED = (
        "job_unfinished",
        "The import job was still running when the run stopped waiting. Clear import: it reconnects to the same job.",
    )
    READ_BACK_MISMATCH = "read_back_mismatch", "The data store does not hold what was sent. Compare it with the source."
    STORED_WITH_ISSUES = (
        "stored_with_issues",
        "The data store kept the resource although it is invalid (minimal validation). Have it reviewed.",
    )
    CONVERSION_FAILED = (
        "conversion_failed",
        "The document was not converted; the detail is the service's message. Correct it and send it again.",
    )
    CONVERSION_MISSING = (
        "conversion_missing",
        "The conversion job left neither a result nor an error for the document. Redrive it.",
    )
    CONVERSION_DRIFT = (
        "conversion_drift",
        "The conversion covers less of the document than transformation.min_coverage. Have the profile extended.",
    )
    UNDECIDED = (
        "undecided",
        "The run stopped before it decided on the file. See the failed task's log, then clear that task.",
    )

    # Audit, of a study, a patient or a file
    NOT_PUBLISHED = (
        "not_published",
        "The study is imported, but its FHIR resources are not proven in HealthLake. See the tasks of the group fhir.",
    )
    PATIENT_CONTRADICTED = (
        "patient_contradicted",
        "The study's order is another patient's, so it is not published. Find out whose study it is: airlock patient.",
    )
    AWAITING_REVIEW = "awaiting_review", "A person has to approve this before it goes downstream. Answer the review."
    PATIENT_HELD = "patient_held", "Another resource of this patient needs a decision. See the reason of each resource."
    FILE_HELD = "file_held", "Another resource of this file needs a decision. See the reason of each resource."
    RESOURCES_SET_ASIDE = (
        "resources_set_aside",
        "Not every resource of the file was released. See the reason of each resource.",
    )
    STUDY_INCOMPLETE = (
        "study_incomplete",
        "Another file of the study was not imported. Repair that file and store it again to release the study.",
    )
    SIBLING_UNREAD = (
        "sibling_unread",
        "A file that belongs to the study by its key or folder cannot be read. Repair that file and store it again.",
    )
    WAITING_FOR_FILE = (
        "waiting_for_file",
        "S3 did not give a file of the study. The next runs try it again. If it is then quarantined, see its reason.",
    )
    FEWER_THAN_DECLARED = (
        "fewer_than_declared",
        "Fewer instances of the study are known than its source declares (see detail). Ask the sender for the rest.",
    )
    AWAITING_DECLARED = (
        "awaiting_declared",
        "The study waits for more instances, as declared (see detail). Clear audit after declared_count.wait_hours.",
    )
    STUDY_HELD = "study_held", "A file of this study needs a decision. See the reason of each file."
    STUDY_IN_FLIGHT = (
        "study_in_flight",
        "Another run has a file of this study and has not decided on it. A later run releases the study when it has.",
    )
    JOB_COUNTS_DISAGREE = (
        "job_counts_disagree",
        "The job's counts differ from the batch's list. Compare the job's output with the files below its prefix.",
    )
    RUN_UNBALANCED = (
        "run_unbalanced",
        "The run's books do not balance, so all of it is held. See the problems in the report.",
    )


_ALL = list(Reason)
# Parse finds the reasons of the list's first two sections. Validate finds any other reason that stops an arrival before
# import.
PARSE_REASONS = tuple(_ALL[: _ALL.index(Reason.MISSING_TRANSFER_SYNTAX_UID)])
SENTENCES: dict[str, str] = {str(reason): reason.sentence for reason in Reason}
# Instead of the sentence of a reason, once a person or a setting has released the file all the same.
RELEASED = "It is released all the same, by a decision or a setting. Nothing to do."
# The reason why an object is owed that a run gave back. No arrival has it, since its claim is gone.
GIVEN_BACK = "given_back"
# The reason why an object is owed that a sweep found and that was never an arrival.
FOUND_BY_SWEEP = "found_by_sweep"
# By the reason of an owed object.
OWED_SENTENCES: dict[str, str] = SENTENCES | {
    GIVEN_BACK: "The run that held the object gave it back, and no run has found it since. Ask the sender for it "
    "again.",
    FOUND_BY_SWEEP: "A sweep found the object, and no run has taken it since. Check that the pipeline runs, and that "
    "S3 or the inventory still lists the object.",
}
