"""Who may import whom (design §5), read off the syntax trees: also imports inside functions count.

A module's row is the one with the longest matching prefix. What a row does not name may not be imported;
the standard library always may, except in the state machine, which must stay a pure function.
"""

import ast
import sys
from pathlib import Path

import pytest
from msgspec import Struct

ROOT = Path(__file__).parents[2]


class Arrow(Struct, frozen=True, kw_only=True):
    """What one part may import."""

    ours: tuple[str, ...] = ()
    "Modules and packages of this project; a package stands for everything in it."
    others: tuple[str, ...] = ()
    "Installed packages."
    pure: bool = False


CONFIG_PARTS = tuple(f"adapters.{path.stem}" for path in (ROOT / "adapters").glob("config_*.py"))

ROOT_PARTS = ("adapters.opening", "adapters.reloading", "adapters.sockets", "adapters.whoami")

ARROWS: dict[str, Arrow] = {
    "statemachine": Arrow(ours=("statemachine",), others=("msgspec", "transitions"), pure=True),
    "adapters.errors": Arrow(),
    "adapters.logs": Arrow(ours=("adapters.errors", "statemachine")),
    "adapters.metrics": Arrow(others=("msgspec",)),
    "adapters.meters": Arrow(
        ours=("adapters.metrics", "adapters.ports", "adapters.wire.admission", "statemachine")
    ),
    "adapters.durable": Arrow(),
    "adapters.page_style": Arrow(),
    "adapters.release": Arrow(),
    "adapters.paths": Arrow(ours=("adapters.errors",), others=("msgspec",)),
    "adapters.ports": Arrow(ours=("statemachine",), others=("msgspec", "trio")),
    "adapters.config": Arrow(
        ours=(
            "adapters.config",
            *CONFIG_PARTS,
            "adapters.durable",
            "adapters.errors",
            "statemachine.settings",
        ),
        others=("msgspec", "tomli"),
    ),
    "adapters.wire": Arrow(
        ours=("adapters.wire", "adapters.errors"),
        others=("cryptography", "h11", "httpcore", "msgspec", "trio"),
    ),
    "adapters.driven": Arrow(
        ours=(
            "adapters.driven",
            "adapters.durable",
            "adapters.errors",
            "adapters.ports",
            "adapters.wire",
            "statemachine",
        ),
        others=("msgspec", "trio"),
    ),
    "adapters.driving": Arrow(
        ours=("adapters.driving", "adapters.errors", "adapters.ports", "adapters.wire", "statemachine"),
        others=("msgspec", "trio"),
    ),
    "adapters.runtime": Arrow(
        ours=("adapters.errors", "adapters.ports", "statemachine"), others=("msgspec", "trio")
    ),
    "adapters.fakes": Arrow(
        ours=("adapters.errors", "adapters.fakes", "adapters.ports", "statemachine"),
        others=("msgspec", "trio"),
    ),
    # The real runtime and timers among fakes, on virtual time.
    "adapters.simulation": Arrow(
        ours=(
            "adapters.driven.timers",
            "adapters.fakes",
            "adapters.page_style",
            "adapters.ports",
            "adapters.runtime",
            "adapters.simulation",
            "statemachine",
        ),
        others=("msgspec", "trio"),
    ),
    # Taking over an installation of the original is a composition of its own: the service never does it.
    "adapters.adoption": Arrow(
        ours=(
            "adapters.adoption",
            "adapters.config",
            "adapters.config_forms",
            "adapters.driven",
            "adapters.durable",
            "adapters.errors",
            "adapters.paths",
            "adapters.whoami",
            "adapters.wire",
            "statemachine",
        ),
        others=("msgspec", "tomli"),
    ),
    # The search itself is pure; this is several processes at it.
    "adapters.exploring": Arrow(ours=("statemachine",), others=("msgspec",)),
    # Message shapes, SAS check and CA are written independently of wire, so that a shared bug cannot
    # cancel out.
    "adapters.simulators": Arrow(
        ours=("adapters.simulators", "adapters.wire.http_server"),
        others=("cryptography", "msgspec", "tomli", "trio"),
    ),
    "adapters.tables": Arrow(ours=("statemachine",), others=("msgspec", "transitions")),
    "adapters.restore": Arrow(
        ours=("adapters.driven.journal_file", "adapters.errors", "statemachine"), others=("msgspec",)
    ),
    "adapters.watched": Arrow(
        ours=("adapters.errors", "adapters.ports", "adapters.runtime", "statemachine"), others=("trio",)
    ),
    "adapters.service": Arrow(
        ours=(
            "adapters.config",
            *ROOT_PARTS,
            "adapters.driven",
            "adapters.driving",
            "adapters.config_changes",
            "adapters.errors",
            "adapters.logs",
            "adapters.meters",
            "adapters.paths",
            "adapters.ports",
            "adapters.release",
            "adapters.restore",
            "adapters.runtime",
            "adapters.tables",
            "adapters.watched",
            "adapters.wire",
            "statemachine",
        ),
        others=("msgspec", "trio"),
    ),
    "adapters.pseudonyms": Arrow(ours=("statemachine.settings",)),
    "adapters.journal_copy": Arrow(
        ours=("adapters.errors", "adapters.pseudonyms", "statemachine"), others=("msgspec",)
    ),
    # Looks at what the adapters keep, through their own eyes; changes nothing.
    "adapters.checks": Arrow(
        ours=(
            "adapters.checks",
            "adapters.config",
            *CONFIG_PARTS,
            "adapters.driven",
            "adapters.errors",
            "adapters.opening",
            "adapters.paths",
            "adapters.release",
            "adapters.sockets",
            "adapters.wire",
            "statemachine",
        ),
        others=("msgspec",),
    ),
    "adapters.cli": Arrow(
        ours=(
            "adapters.__main__",
            "adapters.adoption",
            "adapters.checks",
            "adapters.cli",
            "adapters.config",
            *CONFIG_PARTS,
            "adapters.durable",
            "adapters.errors",
            "adapters.exploring",
            "adapters.fakes",
            "adapters.page_style",
            "adapters.journal_copy",
            "adapters.paths",
            "adapters.pseudonyms",
            "adapters.release",
            "adapters.service",
            "adapters.simulation",
            "adapters.simulators",
            "adapters.tables",
            "adapters.wire",
            "statemachine",
        ),
        others=("cryptography", "msgspec", "tomli", "trio"),
    ),
    "adapters.__main__": Arrow(ours=("adapters.cli", "adapters.errors")),
}
ARROWS |= dict.fromkeys(CONFIG_PARTS, ARROWS["adapters.config"])
# The composition root is several files, each with one thing to put together.
ARROWS |= dict.fromkeys(ROOT_PARTS, ARROWS["adapters.service"])

IMPURE = frozenset(
    (
        "asyncio",
        "concurrent",
        "ctypes",
        "http",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "trio",
        "urllib",
        "uuid",
    )
)
IMPURE_CALLS = frozenset(
    ("__import__", "breakpoint", "compile", "eval", "exec", "exit", "input", "open", "print")
)
IMPURE_ATTRIBUTES = frozenset(
    {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")}
)


def problems_of(module: str, source: str) -> list[str]:
    """What this source must not do, a line each."""
    arrow = arrow_of(module)
    if arrow is None:
        return [f"{module} has no row: say what it may import"]
    found = []
    for node in ast.walk(ast.parse(source)):
        for line, imported in imports_of(node, module):
            if (reason := refusal(arrow, imported)) is not None:
                found.append(f"{module}:{line} imports {imported}: {reason}")
        if arrow.pure:
            found += [f"{module}:{line} uses {what}" for line, what in impurities_of(node)]
    return found


def arrow_of(module: str) -> Arrow | None:
    parts = module.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((ARROWS[prefix] for prefix in prefixes if prefix in ARROWS), None)


def imports_of(node: ast.AST, module: str) -> list[tuple[int, str]]:
    if isinstance(node, ast.Import):
        return [(node.lineno, alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}:{node.lineno} is a relative import"
        base = node.module or ""
        # `from adapters.wire import x509` means a module, `from adapters.errors import bounded` a name.
        return [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return []


def refusal(arrow: Arrow, imported: str) -> str | None:
    top = imported.partition(".")[0]
    if top in ("adapters", "statemachine", "tests"):
        if any(imported == name or imported.startswith(f"{name}.") for name in arrow.ours):
            return None
        return f"allowed are {', '.join(arrow.ours) or 'none of ours'}"
    if top in sys.stdlib_module_names:
        return "it is not pure" if arrow.pure and top in IMPURE else None
    return None if top in arrow.others else f"allowed are {', '.join(arrow.others) or 'no packages'}"


def impurities_of(node: ast.AST) -> list[tuple[int, str]]:
    match node:
        case ast.Name(id=name) if name in IMPURE_CALLS:
            return [(node.lineno, name)]
        case ast.Attribute(value=ast.Name(id=name) | ast.Attribute(attr=name), attr=attribute) if (
            name,
            attribute,
        ) in IMPURE_ATTRIBUTES:
            return [(node.lineno, f"{name}.{attribute}")]
        case ast.AsyncFunctionDef() | ast.Await():
            return [(node.lineno, "async")]
    return []


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in ("statemachine", "adapters"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append((name.removesuffix(".__init__"), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_only_what_the_design_allows(module, path):
    if path.name == "__init__.py":
        assert not any(imports_of(node, module) for node in ast.walk(ast.parse(path.read_text())))
        return
    assert problems_of(module, path.read_text()) == []


def test_every_row_is_about_something():
    names = [name for name, _ in modules()]
    for prefix in ARROWS:
        assert any(name == prefix or name.startswith(f"{prefix}.") for name in names), prefix


PLANTED = {
    "statemachine.policy": [
        "import time",
        "from random import random",
        "def f():\n    import os.path",
        "import trio",
        "from adapters.errors import AdapterError",
        "import cryptography",
        "from datetime import datetime\nx = datetime.now()",
        "import datetime\nx = datetime.datetime.now(datetime.UTC)",
        "from datetime import date\nx = date.today",
        "print('hello')",
        "def f():\n    return open('x')",
        "say = print",
        "async def f():\n    pass",
        "import uuid",
        "import secrets",
        "from pathlib import Path",
        "from socket import socket",
        "import logging",
        "import asyncio",
    ],
    "adapters.wire.dps": ["from adapters.ports import Clock", "from statemachine.events import Started"],
    "adapters.ports": ["from adapters.wire import x509"],
    "adapters.driven.hub": [
        "from adapters.driving import control",
        "from adapters.runtime import Runtime",
        "from adapters import service",
    ],
    "adapters.driving.control": ["from adapters.driven.dps import DpsRegistrar", "import httpcore"],
    "adapters.runtime": ["from adapters.driven import timers", "from adapters.wire import hub"],
    "adapters.exploring": ["from adapters.runtime import Runtime", "import trio"],
    "adapters.fakes.clock": ["from adapters.driven.clock import SystemClock"],
    "adapters.simulators.dps": ["from adapters.wire import sas", "from adapters.wire.x509 import facts"],
    "adapters.config": ["from statemachine.events import Started", "from adapters.driven import files"],
    "adapters.errors": ["import msgspec", "from statemachine.states import State"],
    "adapters.service": ["from adapters.simulators import cloud", "from adapters.fakes import clock"],
    "adapters.cli.run": ["from adapters.driven import dps", "from adapters.runtime import Runtime"],
    "adapters.unheard_of": [""],
    "statemachine.rows": ["from tests.core import world"],
}


@pytest.mark.parametrize(
    ("module", "source"), [(module, source) for module, sources in PLANTED.items() for source in sources]
)
def test_a_planted_violation_is_caught(module, source):
    assert len(problems_of(module, source)) == 1, "and once, not more often"


def test_what_is_allowed_is_not_caught():
    assert (
        problems_of("statemachine.policy", "from datetime import datetime\nx = datetime.fromtimestamp(0)")
        == []
    )
    assert problems_of("adapters.driven.hub", "from adapters.wire import hub as wire\nimport trio, os") == []
    assert problems_of("adapters.simulators.dps", "from adapters.wire.http_server import serve") == []
