#!/bin/sh
# Amazon MWAA runs this on every component before it starts, and hands the exported variables to Airflow and to tasks.

# Where you upload the pipeline files: beside the DAG files, so that a new one needs no update of the environment.
export AIRLOCK_PIPELINES=/usr/local/airflow/dags/pipelines
