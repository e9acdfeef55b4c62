"""C-CDA documents on their way to HealthLake: what is known of one before anything converts it."""
