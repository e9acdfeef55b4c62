"""Hooks, operators, sensors and triggers for AWS HealthImaging, shaped like a service of Airflow's amazon provider."""
