"""HealthLake's data transformation: profiles, and jobs that convert C-CDA documents to FHIR."""
