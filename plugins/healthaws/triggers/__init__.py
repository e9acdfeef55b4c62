"""AWS health services: triggers, one module per service, and a timer."""
