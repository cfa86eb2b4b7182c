"""identityd diagram: the tables of this release, without a running service."""

from argparse import Namespace

from adapters.cli.failure import DONE


def main(args: Namespace) -> int:
    """Mermaid text, or all rows of both tables as data."""
    from adapters.tables import machine_facts, machine_json

    if args.json:
        print(machine_json().decode())
    else:
        facts = machine_facts()
        print((facts.attempt if args.table == "attempt" else facts.lifecycle).mermaid, end="")
    return DONE
