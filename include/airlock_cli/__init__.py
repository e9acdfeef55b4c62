"""The command ``airlock``: queries for operators, and runs started over Airflow's REST API."""
