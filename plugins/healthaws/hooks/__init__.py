"""AWS health services: hooks, one module per service."""
