"""A released study as FHIR R4: Patient, ImagingStudy, Endpoint and, where wanted, a ServiceRequest stub.

Pure functions of study contracts: the same contracts give the same bytes. ``study.publication`` is the door;
docs/imaging-to-fhir.md has the mapping, attribute by attribute, and what is left out.
"""
