"""AWS HealthImaging (botocore's ``medical-imaging``)."""
