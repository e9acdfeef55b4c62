-- The roles of the ledger's database, made when its volume is new: PostgreSQL's image runs this file then.
-- airlock_owner makes and upgrades the tables, airlock_writer is the tasks', airlock_reader is for questions.
\set ON_ERROR_STOP on
\getenv owner_password LEDGER_OWNER_PASSWORD
\getenv writer_password LEDGER_WRITER_PASSWORD
\getenv reader_password LEDGER_READER_PASSWORD

CREATE ROLE airlock_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE airlock_writer LOGIN PASSWORD :'writer_password';
CREATE ROLE airlock_reader LOGIN PASSWORD :'reader_password';

CREATE DATABASE ledger OWNER airlock_owner;
REVOKE ALL ON DATABASE ledger FROM PUBLIC;
-- Queries put the values that they look for into temporary tables.
GRANT CONNECT, TEMPORARY ON DATABASE ledger TO airlock_writer, airlock_reader;
