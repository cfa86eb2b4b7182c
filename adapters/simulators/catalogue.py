"""Every way of the cloud to go wrong that is known here, with what a device makes of it.

One home for three readers: the tests run the real adapters and the whole machine against each row, the
reference page is made from it, and ``identityd cloud --faults`` takes the ``fault`` of any of them.
"""

from collections.abc import Mapping

from adapters.simulators.case import Case
from adapters.simulators.cases import chains, connections, hubs, operations, registrations, retry_after

CATALOGUE: Mapping[str, tuple[Case, ...]] = {
    "Registration: the PUT": registrations.CASES,
    "Registration: the operation and its result": operations.CASES,
    "Retry-After": retry_after.CASES,
    "The issued chain": chains.CASES,
    "The hub": hubs.CASES,
    "TCP and TLS": connections.TLS,
    "Answers that stall": connections.STALLS,
    "Answers that break off": connections.BROKEN,
    "Answers that are none": connections.GARBLED,
}
"By section of the page."

CASES: tuple[Case, ...] = tuple(case for cases in CATALOGUE.values() for case in cases)
