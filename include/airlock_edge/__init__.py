"""The edge: receives images of on-premises systems over DICOM and puts them on S3; acknowledges only what is safe."""
