"""The tree of Python code that a package carries: this project and what it needs, nothing else.

    assemble.py WHEEL DIRECTORY

Every file comes from the wheel or from the environment this runs in, whose versions and hashes are those of
``requirements.lock``: what was tested is what is shipped.
"""

import re
import shutil
import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

from packaging.markers import Marker  # needed by what builds the wheel, so it is there

ROOT = Path(__file__).resolve().parents[1]

LEFT_OUT = re.compile(r"adapters/(simulators/|cli/(cloud|demo\w*)\.py$|data/demo\.toml$)")
"A device has no use for the stand-in cloud, and nobody should find one running there."
NOT_CODE = re.compile(
    r"(^|/)(__pycache__|tests?)/|\.pyc$|^\.\.|(^|/)(RECORD|INSTALLER|REQUESTED|direct_url\.json)$"
)
NAME = re.compile(r"[A-Za-z0-9._-]+")


def needed(name: str) -> list[Distribution]:
    """What the project runs on, all the way down, by name."""
    found: dict[str, Distribution] = {}
    ahead = [name]
    while ahead:
        one = distribution(ahead.pop())
        for requirement in one.requires or ():
            wanted, _, condition = requirement.partition(";")
            match = NAME.match(wanted.strip())
            # Extras are for developers; the other conditions are for platforms that are not this one.
            if match is None or "extra ==" in condition or not _holds(condition.strip()):
                continue
            key = canonical(match[0])
            if key not in found:
                found[key] = distribution(key)
                ahead.append(key)
    return [found[key] for key in sorted(found)]


def _holds(condition: str) -> bool:
    """Of an environment marker (PEP 508)."""
    return not condition or Marker(condition).evaluate()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return {canonical(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.M)}


def unpack(wheel: Path, directory: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not LEFT_OUT.search(name) and not NOT_CODE.search(name):
                archive.extract(name, directory)


def copy(one: Distribution, directory: Path) -> None:
    for file in one.files or ():
        if NOT_CODE.search(str(PurePosixPath(file))):
            continue
        target = directory / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(one.locate_file(file)), target)


def main(wheel: str, directory: str) -> int:
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    unpack(Path(wheel), target)
    versions = locked()
    for one in needed("identityd"):
        name = canonical(one.metadata["Name"])
        if versions.get(name) != one.version:
            wanted = versions.get(name)
            sys.exit(f"{name} {one.version} is installed, requirements.lock has {wanted}; run: make venv")
        copy(one, target)
        print(f"{name} {one.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
