"""DICOM headers, read without pixels, and HealthImaging's requirements on a file before import."""
