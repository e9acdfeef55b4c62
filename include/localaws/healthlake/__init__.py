"""The HealthLake emulator: control plane, FHIR store and FHIR REST plane."""
