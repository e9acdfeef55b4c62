"""Search for histories of several runs after which the books are wrong: `make explore`, docs/exploring.md."""
