"""``make compose-proof``: build the images, start docker-compose.yaml, prove it, and say what was out of reach."""

from __future__ import annotations

import sys
import time

from airlock_local.progress import say
from tests.compose.engine import HealthClock, Stack, build_images, missing_programs, serving
from tests.compose.proof import Proof, ProofError
from tests.compose.settings import prepare, read_settings
from tests.compose.unreached import unreached


def main() -> int:
    """Prove docker-compose.yaml, and return the exit status."""
    settings = read_settings(sys.argv[1:])
    lacking = missing_programs()
    if lacking:
        sys.stderr.write(f"{' and '.join(lacking)} not found: install them, the proof starts containers\n")
        return 2
    prepare(settings)
    began = time.monotonic()
    if settings.build:
        say(f"building three images on {settings.images['BASE']}")
        build_images(settings)
        say(f"built in {time.monotonic() - began:.0f} s")
    with serving(settings.folder) as socket, HealthClock():
        stack = Stack(settings, socket)
        try:
            stack.down()
            stack.up()
            say(f"up after {time.monotonic() - began:.0f} s")
            Proof(settings, stack).run()
        except (ProofError, AssertionError, RuntimeError) as error:
            sys.stderr.write(f"FAILED: {error}\n")
            return 1
        finally:
            if not settings.keep:
                stack.down()
    say(f"proved in {time.monotonic() - began:.0f} s. Not reached:")
    for sentence in unreached(settings):
        say(f"  --  {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
