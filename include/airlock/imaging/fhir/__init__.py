"""Released studies as FHIR R4: Patient, ImagingStudy, Endpoint and, if wanted, a ServiceRequest stub.

Pure functions of study contracts: the same contracts give the same bytes. Callers use ``study.build_publication``;
docs/imaging-to-fhir.md has the mapping of each attribute, and lists what is left out.
"""
