"""The view `arrival_states`: each arrival with its verdict, its latest word and its successor."""

from __future__ import annotations

from sqlalchemy import Column, MetaData, Table

from airlock.ledger.tables import arrivals, successors, verdicts, words

arrival_states = Table(
    "arrival_states",
    MetaData(),
    *(Column(column.name, column.type) for column in arrivals.c),
    *(Column(column.name, column.type) for column in verdicts.c if column.name not in arrivals.c),
    *(Column(column.name, column.type) for column in words.c if column.name not in {*arrivals.c.keys(), "study_key"}),
    *(Column(column.name, column.type) for column in successors.c if column.name not in arrivals.c),
)
STATES_VIEW = """CREATE VIEW arrival_states AS
SELECT a.arrival_id, a.pipeline, a.run_key, a.bucket, a.key, a.version_id, a.etag, a.size, a.last_modified, a.site,
    a.generation, a.carries, a.claimed_at, v.verdict, v.datastore_id, v.study_key, v.sop_instance_uid,
    v.series_instance_uid, v.study_instance_uid, w.number, w.said_by, w.disposition, w.stage, w.reason, w.detail,
    w.unreleased_instance_uid, w.batch_id, w.job_id, w.image_set_id, w.settled_at, s.superseded_by, s.superseded_before
FROM arrivals a
LEFT JOIN verdicts v ON v.arrival_id = a.arrival_id AND v.pipeline = a.pipeline
LEFT JOIN words w ON w.arrival_id = a.arrival_id AND w.pipeline = a.pipeline AND NOT EXISTS (
    SELECT 1 FROM words l
    WHERE l.number > 1 AND l.arrival_id = w.arrival_id AND l.pipeline = w.pipeline AND l.number > w.number)
LEFT JOIN successors s ON s.arrival_id = a.arrival_id AND s.pipeline = a.pipeline"""
