"""How many of the original's own cases come out equal here: ``python -m tests.conformance``.

Exit status 1 when one does not, 2 when the files are not beside this repository.
"""

import sys

from tests.conformance import apply_cases, identityd_files

SETS = (("config-apply", apply_cases), ("identityd-config", identityd_files))


def main() -> int:
    equal, cases = 0, 0
    for title, kind in SETS:
        names = kind.names()
        if not names:
            print(f"{title}: its files are not beside this repository")
            continue
        differing = {name: lines for name in names if (lines := kind.differences(name))}
        print(f"{title}: {len(names) - len(differing)} of {len(names)} cases equal")
        for name, lines in differing.items():
            print(f"  {name}")
            for line in lines:
                print(f"    {line}")
        equal, cases = equal + len(names) - len(differing), cases + len(names)
    if not cases:
        return 2
    print(f"{equal} of {cases} cases equal")
    return 0 if equal == cases else 1


if __name__ == "__main__":
    sys.exit(main())
