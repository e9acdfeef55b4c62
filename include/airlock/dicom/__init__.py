"""DICOM as Airlock needs it: headers without pixels, and what HealthImaging asks of a file before import."""
