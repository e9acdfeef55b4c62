"""FHIR into HealthLake: the stages that differ from those of imaging, under the same names.

receive, buffer and route are the same for every kind. An arrival is a file, an instance is a resource. A **unit** is
what a file comes apart into: a resource, a line or Bundle entry that is none, or the file where it holds nothing.
"""
