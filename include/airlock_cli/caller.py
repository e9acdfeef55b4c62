"""Who is at the terminal, for the decision log."""

from __future__ import annotations

import grp
import os
import pwd


def find_caller() -> str:
    """Return the name of the operating system's user who runs the command; ``uid:<number>`` if the user has no name.

    `getpass.getuser` believes the environment variable LOGNAME: with it anybody would decide in anybody's name.
    """
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # in a container that runs as a number
        return f"uid:{number}"


def list_groups() -> set[str]:
    """Return the groups of the user as assignees of a review name them."""
    names = set()
    for number in os.getgroups():
        try:
            names.add(f"group:{grp.getgrgid(number).gr_name}")
        except KeyError:  # a group without a name
            continue
    return names
