"""``airlock`` and ``python -m airlock_cli``."""

from airlock_cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="airlock")


if __name__ == "__main__":
    main()
