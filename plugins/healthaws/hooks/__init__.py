"""AWS health services: hooks. A service's own module has its data stores; each kind of jobs has a module beside it."""
