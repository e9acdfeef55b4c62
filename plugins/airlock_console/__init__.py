"""The console: pages about runs, holds, destinations and the migration, served by Airflow's API server.

Rights are Airflow's: who may read a DAG may read its pages. Identifiers need a right of their own, and each look at
them is written to the decision log. `app` wires the pages; `deployment` connects them to Airflow and to the ledger.
"""
