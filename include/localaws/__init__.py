"""A local emulator of AWS HealthImaging and AWS HealthLake, driven by botocore's own models; see docs/localaws.md."""
