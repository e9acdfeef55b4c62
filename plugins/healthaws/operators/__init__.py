"""AWS health services: operators, one module per service."""
