"""Tables of the HealthLake emulator."""

TABLES = """
CREATE TABLE IF NOT EXISTS fhir_datastore (
    id TEXT PRIMARY KEY, name TEXT, status TEXT NOT NULL, created_at REAL NOT NULL, configuration TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS fhir_job (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    datastore_id TEXT NOT NULL REFERENCES fhir_datastore, name TEXT, status TEXT NOT NULL, role_arn TEXT NOT NULL,
    input_uri TEXT, output_uri TEXT NOT NULL, kms_key_id TEXT NOT NULL, validation_level TEXT, client_token TEXT,
    submitted_at REAL NOT NULL, started_at REAL, ended_at REAL, message TEXT, phase TEXT NOT NULL, faults TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS fhir_job_by_datastore ON fhir_job (datastore_id, kind, number);
CREATE INDEX IF NOT EXISTS fhir_job_by_phase ON fhir_job (kind, phase, number);
CREATE TABLE IF NOT EXISTS fhir_import_file (
    job_id TEXT NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL, size INTEGER NOT NULL,
    state TEXT NOT NULL, imported_bytes INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (job_id, number)
);
CREATE TABLE IF NOT EXISTS fhir_import_line (
    job_id TEXT NOT NULL, file INTEGER NOT NULL, line INTEGER NOT NULL, outcome TEXT NOT NULL,
    resource_type TEXT, resource_id TEXT, detail TEXT, PRIMARY KEY (job_id, file, line)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fhir_import_count (
    job_id TEXT NOT NULL, outcome TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (job_id, outcome)
);
CREATE TABLE IF NOT EXISTS fhir_version (
    number INTEGER PRIMARY KEY, datastore_id TEXT NOT NULL, resource_type TEXT NOT NULL, id TEXT NOT NULL,
    version INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL, superseded_at REAL,
    kept INTEGER NOT NULL, deleted INTEGER NOT NULL, body TEXT NOT NULL,
    UNIQUE (datastore_id, resource_type, id, version)
);
CREATE UNIQUE INDEX IF NOT EXISTS fhir_current ON fhir_version (datastore_id, resource_type, id)
    WHERE superseded_at IS NULL;
CREATE TABLE IF NOT EXISTS fhir_search (
    number INTEGER NOT NULL, ordinal INTEGER NOT NULL, parameter TEXT NOT NULL, system TEXT, value TEXT,
    low REAL, high REAL, PRIMARY KEY (number, ordinal)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS fhir_search_by_value ON fhir_search (parameter, value);
CREATE TABLE IF NOT EXISTS fhir_idempotency (
    datastore_id TEXT NOT NULL, key TEXT NOT NULL, resource_type TEXT NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (datastore_id, key)
);
CREATE TABLE IF NOT EXISTS fhir_transaction (
    id TEXT PRIMARY KEY, datastore_id TEXT NOT NULL, level TEXT NOT NULL, base TEXT NOT NULL, bundle TEXT NOT NULL,
    status TEXT NOT NULL, answer_status INTEGER, answer TEXT
);
"""
"""`fhir_job.phase`: ``waiting``, ``held``, ``queued``, ``reading``, ``writing``, ``late`` or ``done``: the next step.

`fhir_import_file.state`: ``waiting``, ``read`` or ``unreadable``. `fhir_import_line` holds the outcome of each line
until the output folder is written; `fhir_import_count` keeps their number for ever.

`fhir_version.number` counts versions of all resources; `fhir_search` holds the index of each version.

`fhir_version.kept`: searches find this version until the one that superseded it is indexed (strong consistency).
"""
