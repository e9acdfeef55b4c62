"""Build what Amazon MWAA takes: plugins.zip, the DAG files, requirements.txt and startup.sh.

``make mwaa`` calls it. The same sources make the same plugins.zip, byte by byte, so that nobody uploads an unchanged
file as a new version.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (ROOT / "include/airlock",)  # beside the plugins, since Airflow puts that folder on Python's path
# Packages of ours that nobody puts there, but whose modules the plugin loader must not run if somebody does.
NEVER_RUN = ("airlock", "airlock_cli", "airlock_edge", "airlock_local", "localaws")
IGNORE_FILE = ".airflowignore"
MOMENT = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file knows


def main() -> int:
    """Build into the folder that the command line names, which is emptied first."""
    if len(sys.argv) != 2:
        print("usage: python deploy/mwaa/build.py FOLDER", file=sys.stderr)  # noqa: T201
        return 2
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    (target / "dags").mkdir(parents=True)
    for path in sorted((ROOT / "dags").glob("*.py")):
        shutil.copyfile(path, target / "dags" / path.name)
    write_plugins(target / "plugins.zip")
    shutil.copyfile(ROOT / "requirements-mwaa.txt", target / "requirements.txt")
    shutil.copyfile(ROOT / "deploy/mwaa/startup.sh", target / "startup.sh")
    print(f"Built {target}. Upload it as docs/mwaa.md says.")  # noqa: T201
    return 0


def write_plugins(target: Path) -> None:
    """Write the plugins and the library, and an .airflowignore that names every package.

    Parameters
    ----------
    target
        The zip file to write.
    """
    files = _files(ROOT / "plugins", ROOT / "plugins")
    for library in LIBRARIES:
        files |= _files(library, library.parent)
    del files[IGNORE_FILE]
    ignored = (ROOT / "plugins" / IGNORE_FILE).read_text(encoding="utf-8") + "".join(f"{name}/\n" for name in NEVER_RUN)
    with ZipFile(target, "w", ZIP_DEFLATED) as archive:
        for name, path in sorted(files.items()):
            _add(archive, name, path.read_bytes())
        _add(archive, IGNORE_FILE, ignored.encode())


def _files(folder: Path, base: Path) -> dict[str, Path]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(base).as_posix(): path for path in found}


def _add(archive: ZipFile, name: str, content: bytes) -> None:
    entry = ZipInfo(name, MOMENT)
    entry.compress_type = ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


if __name__ == "__main__":
    sys.exit(main())
