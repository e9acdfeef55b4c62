"""Imaging: DICOM objects of an archive into HealthImaging, and their studies to those downstream."""
