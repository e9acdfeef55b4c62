"""``make docs``: build the site of docs/ into a folder. Nothing is read from the network, and warnings are errors."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import main as build

from website.reference import write_reference
from website.staging import add_navigation, stage_pages

HERE = Path(__file__).parent
_FIRST_PAGE = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/index.html">'


def build_site(folder: Path) -> int:
    """Build the site into ``site`` below a folder; return Sphinx's exit status, 0 if it has no warning."""
    pages, site = folder / "pages", folder / "site"
    for old in (pages, site):
        shutil.rmtree(old, ignore_errors=True)
    stage_pages(pages)
    add_navigation(pages, write_reference(pages))
    first = pages / "_root"
    first.mkdir()
    (first / "index.html").write_text(_FIRST_PAGE + '<a href="docs/index.html">Airlock</a>\n', encoding="utf-8")
    options = ["--quiet", "--fail-on-warning", "--keep-going", "--jobs=1", "-d", str(folder / "read")]
    places = ["-b", "html", "-c", str(HERE), "-D", f"html_extra_path={first}", str(pages), str(site)]
    status: int = build([*options, *places])
    return status


def main() -> int:
    """Build the site."""
    parser = argparse.ArgumentParser(prog="python -m website", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    status = build_site(folder)
    if not status:
        sys.stdout.write(f"{folder / 'site/index.html'}\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
