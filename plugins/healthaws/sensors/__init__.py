"""AWS health services: sensors, one module per service."""
