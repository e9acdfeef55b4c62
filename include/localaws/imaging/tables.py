"""Tables of the HealthImaging emulator."""

TABLES = """
CREATE TABLE IF NOT EXISTS datastore (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
    kms_key_arn TEXT, lambda_authorizer_arn TEXT, lossless_storage_format TEXT
);
CREATE TABLE IF NOT EXISTS import_job (
    id TEXT PRIMARY KEY, datastore_id TEXT NOT NULL REFERENCES datastore, name TEXT NOT NULL, status TEXT NOT NULL,
    role_arn TEXT NOT NULL, input_uri TEXT NOT NULL, output_uri TEXT NOT NULL, input_owner TEXT,
    client_token TEXT NOT NULL, submitted_at REAL NOT NULL, ended_at REAL, message TEXT,
    phase TEXT NOT NULL, faults TEXT NOT NULL, results TEXT
);
CREATE INDEX IF NOT EXISTS import_job_by_datastore ON import_job (datastore_id, submitted_at);
CREATE TABLE IF NOT EXISTS image_set (
    id TEXT PRIMARY KEY, datastore_id TEXT NOT NULL REFERENCES datastore, latest_version INTEGER NOT NULL,
    is_primary INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL, accessed_at REAL NOT NULL,
    deleted_at REAL, patient_id TEXT NOT NULL, accession_number TEXT NOT NULL, study_id TEXT NOT NULL,
    study_uid TEXT NOT NULL, series_uid TEXT NOT NULL, study_date TEXT NOT NULL, study_time TEXT NOT NULL,
    grouping TEXT NOT NULL, tags TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS image_set_by_study ON image_set (datastore_id, study_uid);
CREATE INDEX IF NOT EXISTS image_set_by_series ON image_set (datastore_id, series_uid);
CREATE INDEX IF NOT EXISTS image_set_by_creation ON image_set (datastore_id, created_at, id);
CREATE TABLE IF NOT EXISTS image_set_version (
    image_set_id TEXT NOT NULL REFERENCES image_set, version INTEGER NOT NULL, state TEXT NOT NULL,
    workflow_status TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL, deleted_at REAL,
    message TEXT, forced INTEGER NOT NULL, is_primary INTEGER NOT NULL, document BLOB NOT NULL,
    PRIMARY KEY (image_set_id, version)
);
CREATE TABLE IF NOT EXISTS frame (
    image_set_id TEXT NOT NULL REFERENCES image_set, id TEXT NOT NULL, file TEXT NOT NULL, start INTEGER NOT NULL,
    size INTEGER NOT NULL, transfer_syntax TEXT, PRIMARY KEY (image_set_id, id)
);
"""
"""`import_job.phase`: ``waiting``, ``reading``, ``writing``, ``late`` or ``done``: which step comes next."""
