"""AWS health services: waiter models, one JSON file per boto client type."""
