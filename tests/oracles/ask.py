"""Ask the two npm validators about every case, and keep their answers in answers.json.

``python -m tests.oracles.ask`` installs the packages of package.json into a temporary folder (needs node 20 and npm).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.oracles.cases import cases

HERE = Path(__file__).parent
ANSWERS = HERE / "answers.json"


def ask() -> dict[str, dict[str, list[str]]]:
    """Return what each validator finds wrong with each case, by the case's name."""
    with tempfile.TemporaryDirectory(prefix="airlock-oracles-") as name:
        folder = Path(name)
        for file in ("package.json", "ask.mjs"):
            shutil.copy(HERE / file, folder)
        (folder / "cases.json").write_text(json.dumps({case.name: case.resource for case in cases()}), encoding="utf-8")
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)
        command = ["node", "ask.mjs", "cases.json"]
        answer = subprocess.run(command, cwd=folder, check=True, capture_output=True, encoding="utf-8")
    found: dict[str, dict[str, list[str]]] = json.loads(answer.stdout)
    return found


def verdicts(answers: dict[str, dict[str, list[str]]]) -> dict[str, Any]:
    """Return which cases each validator accepts: what is kept, and compared."""
    return {oracle: [name for name, found in answers.items() if not found[oracle]] for oracle in ("medplum", "lantana")}


def main() -> None:
    """Write answers.json."""
    answers = ask()
    kept = {"cases": len(answers), "accepted": verdicts(answers)}
    ANSWERS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
