"""S3 and the local disk: addresses, calls, listings, a run's datasets, and rows that are set aside."""
