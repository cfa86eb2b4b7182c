"""The rogue cloud: ``python -m tests.rogue [--only TEXT]``.

Every case of the catalogue is met twice: by the real DPS and hub adapters over real TLS, and by a whole
device that is due for renewal (real machine, adapters and stores, in memory, on virtual time). Prints what
differs from the catalogue and a tally by section. Exit status 1 when anything does.
"""

import argparse
import sys
import time
from collections import Counter

from adapters.simulators.catalogue import CATALOGUE
from tests.rogue.life import all_lives
from tests.rogue.table import STALLS, meet_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rogue", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their name")
    only = parser.parse_args().only
    section_of = {
        case.name: section for section, cases in CATALOGUE.items() for case in cases if only in case.name
    }
    picked = [case for cases in CATALOGUE.values() for case in cases if case.name in section_of]

    begun = time.monotonic()
    met = meet_all(case for case in picked if case not in STALLS)
    met |= meet_all((case for case in picked if case in STALLS), virtual=True)
    answered = time.monotonic()
    tally: dict[str, Counter[str]] = {section: Counter() for section in CATALOGUE}
    wrong = 0
    for case in picked:
        tally[section_of[case.name]]["adapters"] += not met[case.name]
        wrong += bool(met[case.name])
        for text in met[case.name]:
            print(f"adapters, {case.name}: {text}")
    for case, found in all_lives(picked):
        tally[section_of[case.name]]["renewals"] += not found
        wrong += bool(found)
        for text in found:
            print(f"renewal, {case.name}: {text}")
    ended = time.monotonic()

    print(f"{'section':<45}{'cases':>7}{'adapters':>10}{'renewals':>10}")
    for section, counts in tally.items():
        cases = sum(section_of[case.name] == section for case in picked)
        print(f"{section:<45}{cases:>7}{counts['adapters']:>10}{counts['renewals']:>10}")
    total = {
        name: sum(counts[name] for counts in tally.values()) for name in ("adapters", "renewals", "known")
    }
    print(f"{'in all':<45}{len(picked):>7}{total['adapters']:>10}{total['renewals']:>10}")
    nexts = Counter(case.then for case in picked)
    print("what happens next: " + ", ".join(f"{name} {count}" for name, count in sorted(nexts.items())))
    codes = {(case.failure_class, case.code) for case in picked if case.code is not None}
    print(f"{len(codes)} different classes and codes; kinds: {len({case.fault['kind'] for case in picked})}")
    print(
        f"adapters {answered - begun:.1f} s, renewals {ended - answered:.1f} s, {wrong} otherwise than said"
    )
    return int(bool(wrong) or not picked)


if __name__ == "__main__":
    sys.exit(main())
