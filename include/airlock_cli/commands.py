"""What every group of commands has in common: how errors end it, options and arguments, and how results are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from airlock_cli.errors import CommandError, RequestError, Status
from airlock_cli.show import print_json, print_tables, say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock_cli.show import Table


class Commands(TyperGroup):
    """A command group that turns a command's error into a message and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and exit with the status of its error."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            say(str(error))
            raise typer.Exit(error.status) from None
        except KeyboardInterrupt:
            say("Stopped watching. A run that was started continues in Airflow.")
            raise typer.Exit(Status.INTERRUPTED) from None


STYLE: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}
PROMPTS = STYLE | {"no_args_is_help": False, "invoke_without_command": True}

Pipeline = Annotated[str, typer.Argument(help="The pipeline's name.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Number = Annotated[int, typer.Argument(help="The question's number.", min=1, show_default=False)]
Decided = Annotated[str, typer.Option(help="The reason, kept in the decision log.", show_default=False)]


def show_result(as_json: bool, content: Any, tables: Iterable[Table]) -> None:
    """Print a result as JSON, or as tables."""
    if as_json:
        print_json(content)
    else:
        print_tables(tables)


def require_utf8(name: str, text: str) -> str:
    """Return what a person has typed for an argument or a question; raise `RequestError` if no key or UID has it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{name} is not UTF-8, but all keys and UIDs are. Copy it from the report.") from None
    return text
