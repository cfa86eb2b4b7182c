"""identityd diagram: the tables of this release, without a running service."""

from argparse import Namespace

from adapters.cli.failure import DONE, USAGE, CommandFailed

TITLES = {
    "lifecycle": "The lifecycle of a device: its states, and what moves it between them",
    "attempt": "One attempt to obtain a credential: its phases, and what moves it between them",
}


def main(args: Namespace) -> int:
    """Mermaid text, a picture, or all rows of both tables as data."""
    from adapters.tables import machine_facts, machine_json

    if args.json and args.format != "mermaid":
        raise CommandFailed("--json is both tables as data; --format is how one is drawn: name one", USAGE)
    if args.json:
        print(machine_json().decode())
        return DONE
    facts = machine_facts()
    table = facts.attempt if args.table == "attempt" else facts.lifecycle
    if args.format == "svg":
        from adapters.cli.diagram_svg import svg

        print(svg(table, TITLES[args.table]), end="")
    else:
        print(table.mermaid, end="")
    return DONE
