"""Checks the harness itself: ``python -m tests.mutation.confirm --report FILE [--sample 20] [--seed N]``

A run grafts its mutants into a live process. Here a sample of those it called killed is written down as
source, in a copy of the tree, and what killed each is run against that copy by an ordinary pytest. Exit
status 0 only if it fails there as well, and passes on the copy as it was.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutation.harness import ROOT
from tests.mutation.mutants import all_mutants
from tests.mutation.source import Mutant

REPLAY = """
import pathlib, sys
from statemachine.replay import replay_files
path = pathlib.Path("tests/journals", sys.argv[1])
sys.exit(not replay_files([(path.name, path.read_bytes())]).equal)
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation.confirm", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--report", type=Path, required=True, metavar="FILE", help="of python -m tests.mutation"
    )
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="so many (20)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the sample (1)")
    args = parser.parse_args()
    killed = [one for one in json.loads(args.report.read_text(encoding="utf-8")) if one["killer"] is not None]
    killed = [one for one in killed if one["killer"] != "explorer" and "does not end" not in one["found"]]
    chosen = random.Random(args.seed).sample(killed, min(args.sample, len(killed)))
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = _copied(Path(folder))
        for one in chosen:
            # Anew for each: an edit spoils the tree it is made in.
            mutant = next(two for two in all_mutants() if two.id == one["id"])
            as_expected = _confirmed(mutant, one, copy)
            wrong += not as_expected
            print(f"{'agrees' if as_expected else 'DIFFERS'}  {one['killer']}  {one['id']}", flush=True)
    print(f"{len(chosen) - wrong} of {len(chosen)} killed mutants are killed as source too")
    return 0 if not wrong and chosen else 1


def _copied(folder: Path) -> Path:
    for name in ("statemachine", "tests/core", "tests/journals"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def _confirmed(mutant: Mutant, one: dict[str, str], copy: Path) -> bool:
    path = copy / mutant.source.shown_path
    before = path.read_text(encoding="utf-8")
    command = _command(one)
    if _status(command, copy) != 0:
        return False
    mutant.edit()
    path.write_text(ast.unparse(ast.fix_missing_locations(mutant.source.tree)), encoding="utf-8")
    try:
        return _status(command, copy) != 0
    finally:
        path.write_text(before, encoding="utf-8")


def _command(one: dict[str, str]) -> list[str]:
    if one["killer"] == "build":
        return ["-c", "import statemachine.machine"]
    if one["killer"] == "journals":
        name, suffix, _ = one["found"].partition(".jsonl")
        return ["-c", REPLAY, name + suffix]
    return ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", one["test"]]


def _status(command: list[str], copy: Path) -> int:
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, *command], cwd=copy, env=environment, capture_output=True, timeout=300, check=False
    )
    return ran.returncode


if __name__ == "__main__":
    sys.exit(main())
