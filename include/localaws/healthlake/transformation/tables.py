"""Tables of the data-transformation emulator."""

TABLES = """
CREATE TABLE IF NOT EXISTS transformation_profile (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT, source_format TEXT NOT NULL, kms_key_id TEXT,
    updated_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS transformation_profile_version (
    profile_id TEXT NOT NULL REFERENCES transformation_profile ON DELETE CASCADE, version INTEGER NOT NULL,
    mapping TEXT NOT NULL, change_description TEXT, updated_at REAL NOT NULL, PRIMARY KEY (profile_id, version)
);
CREATE TABLE IF NOT EXISTS transformation_job (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT, status TEXT NOT NULL, role_arn TEXT NOT NULL,
    profile_id TEXT NOT NULL, profile_name TEXT NOT NULL, profile_version INTEGER, source_format TEXT NOT NULL,
    input_uri TEXT NOT NULL, output_uri TEXT NOT NULL, kms_key_id TEXT NOT NULL, client_token TEXT NOT NULL,
    drift INTEGER NOT NULL, provenance INTEGER NOT NULL, submitted_at REAL NOT NULL, ended_at REAL, message TEXT,
    phase TEXT NOT NULL, faults TEXT NOT NULL, results TEXT NOT NULL
);
"""
"""Version 0 of a profile is its draft. `transformation_job.phase`: ``waiting``, ``reading``, ``writing``, ``late`` or
``done``; `number` is the order of submission."""
