"""A local emulator of AWS HealthImaging, driven by botocore's own service model; see docs/localaws.md."""
