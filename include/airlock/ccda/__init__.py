"""The kind ``ccda``: C-CDA documents, their conversion to FHIR resources, and the review before release."""
