"""Hooks, operators, sensors and triggers for AWS HealthImaging and HealthLake, in the shape of the amazon provider."""
