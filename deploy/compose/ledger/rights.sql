-- What the roles of the ledger may do. airlock_owner runs it after each upgrade, because an upgrade may add tables.
\set ON_ERROR_STOP on
BEGIN;
GRANT USAGE ON SCHEMA public TO airlock_writer, airlock_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO airlock_writer, airlock_reader;
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO airlock_writer;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO airlock_writer;
-- A table that a later upgrade adds can be used at once, also before this file is run again.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO airlock_writer, airlock_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT INSERT, UPDATE, DELETE ON TABLES TO airlock_writer;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO airlock_writer;
-- What people decided, saw and noted stays as it was written.
REVOKE UPDATE, DELETE ON decisions, notes FROM airlock_writer;
-- Only an upgrade changes the schema's number.
REVOKE INSERT, UPDATE, DELETE ON airlock_ledger_version FROM airlock_writer;
COMMIT;
