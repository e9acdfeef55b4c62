"""The ledger: that it answers with the right schema, is encrypted on its way, and the role may do what it needs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from airlock.ledger import LedgerError, LedgerSchemaError, LedgerUnreachableError
from airlock.ledger.examination import (
    can_others_read,
    is_encrypted,
    read_address,
    read_privileges,
    read_schema,
    read_time,
)
from airlock.stages.doctor.airflow_settings import EXECUTOR, has_local_executor
from airlock.stages.doctor.attempts import CheckUnableError
from airlock.stages.doctor.findings import Check, failed, passed, warned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.world import World

REACHABLE: Final = "ledger.reachable"
_ABOUT: Final = "ledger"
_OFF: Final = 30.0  # seconds
_MOST_NAMED: Final = 5
_FIX_TEXT: Final = "Correct it. In an address, write special characters of the password as %XX, for example %23 for #."
# An upgrade of a wrong address would make a second ledger, which knows nothing of what was imported.
_IF_NEW: Final = (
    "If that is not the ledger, correct AIRLOCK_LEDGER_URL or the connection airlock_ledger. If it is, run: airlock "
    "ledger upgrade"
)


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of the ledger."""
    url = world.ledger_url
    if world.ledger_problem:
        yield Check(REACHABLE, _ABOUT, partial(failed, world.ledger_problem, _FIX_TEXT))
        return
    if url is None:
        yield Check(REACHABLE, _ABOUT, _say_that_none_is_known)
        return
    exists = (f"{REACHABLE} {_ABOUT}",)
    yield Check(REACHABLE, _ABOUT, partial(_check_reachable, world, url))
    yield Check("ledger.schema", _ABOUT, partial(_check_schema, url), exists)
    yield Check("ledger.place", _ABOUT, partial(_check_place, world, url))
    yield Check("ledger.privileges", _ABOUT, partial(_check_privileges, url), (*exists, f"ledger.schema {_ABOUT}"))
    yield Check("ledger.tls", _ABOUT, partial(_check_tls, url), exists)


def _say_that_none_is_known() -> Finding:
    raise CheckUnableError(
        "AIRLOCK_LEDGER_URL is not set here, and the connection airlock_ledger cannot be read.\n"
        "Set it, or call airlock doctor on a worker."
    )


def _check_reachable(world: World, url: str) -> Finding:
    before = world.now()
    try:
        address = read_address(url)
        if address.file is not None and not address.file.exists():
            return failed(f"The SQLite file {address.file} does not exist.", _IF_NEW)
        theirs = read_time(url)
    except LedgerUnreachableError as error:
        return failed(f"{error}.", "Start the database, or correct the address, its network and its password.")
    except LedgerError as error:
        return failed(f"{error}.", "Correct AIRLOCK_LEDGER_URL or the connection airlock_ledger.")
    off = max((before - theirs).total_seconds(), (theirs - world.now()).total_seconds(), 0.0)
    if address.file is None and off > _OFF:
        return warned(
            f"It answers, and its clock is {off:,.0f} seconds away from this machine's.", "Synchronize both (NTP)."
        )
    return passed("It answers.")


def _check_schema(url: str) -> Finding:
    try:
        found = read_schema(url)
    except LedgerSchemaError as error:
        told = str(error)
        return failed(f"{told[:1].upper()}{told[1:]}.", f"{_IF_NEW} (docs/upgrade.md)")
    except LedgerUnreachableError:
        raise
    except LedgerError as error:
        return failed(f"{error}.", "See docs/rebuild.md.")
    return passed(f"It has schema {found}.")


def _check_place(world: World, url: str) -> Finding:
    file = read_address(url).file
    if file is None:
        return passed("It is on PostgreSQL.")
    if not world.airflow.has_settings:
        return warned(
            "It is a SQLite file, and the executor is not known here.",
            "Call airlock doctor on a worker: with any executor but LocalExecutor the ledger must be on PostgreSQL.",
        )
    if not has_local_executor(world.airflow):
        executor = world.airflow.option(*EXECUTOR)
        return failed(
            f"It is a SQLite file, but the executor is {executor}: workers on two machines would have two ledgers.",
            "Move it to PostgreSQL: airlock ledger copy (docs/backup.md).",
        )
    if file.exists() and can_others_read(file):
        return failed("Other users of this machine can read the SQLite file.", "chmod 600 the file.")
    return passed("It is a SQLite file, and all tasks run on this machine.")


def _check_privileges(url: str) -> Finding:
    if read_address(url).file is not None:
        return passed("SQLite has no roles.")
    found = read_privileges(url)
    if found.missing:
        more = len(found.missing) - _MOST_NAMED
        named = ", ".join(found.missing[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        return failed(f"The role lacks {named}.", "Grant it, or use the role that made the ledger.")
    if found.is_superuser:
        return warned(
            "The role is a superuser of the database: it can change everything, the decision log too.",
            "Use a role that owns nothing but the ledger.",
        )
    if found.can_rewrite_decisions:
        return warned(
            "The role can change and delete the decision log.",
            "Use a role that may only insert into decisions and read them.",
        )
    return passed("The role may do what it needs, and cannot change the decision log.")


def _check_tls(url: str) -> Finding:
    address = read_address(url)
    if address.is_on_this_machine:
        return passed("No network is between.")
    if not is_encrypted(url):
        return failed(
            "The connection is not encrypted; the ledger has identifiers of patients.",
            "Add sslmode=verify-full and sslrootcert to its address, and let the server require TLS.",
        )
    if not address.is_verified:
        return warned(
            "The connection is encrypted, but the server need not prove who it is.",
            "Add sslmode=verify-full and sslrootcert to its address.",
        )
    return passed("The connection is encrypted, and the server proves who it is.")
