"""AWS health services: operators, in modules of the same names as the hooks that they use."""
