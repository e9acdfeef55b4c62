"""AWS health services: links, one module per service."""
