"""Ids that belong to the machine: no socket creates, imports, moves or deletes them (design §4).

Whatever a uid or a wildcard allows. Reading and using them is another matter, and each socket's own.
"""

from statemachine.settings import HANDLE_KEY_ID, IDENTITY_CERTIFICATE_ID, IDENTITY_KEY_ID, MASTER_KEY_ID

_KEYS = frozenset({IDENTITY_KEY_ID, MASTER_KEY_ID, HANDLE_KEY_ID})


def owns_key(key_id: str) -> bool:
    """Whether this key or key pair is the machine's."""
    return key_id in _KEYS


def owns_certificate(certificate_id: str, trust_bundle_id: str) -> bool:
    """Whether this certificate is the machine's. ``trust_bundle_id`` is the configured one."""
    return certificate_id in (IDENTITY_CERTIFICATE_ID, trust_bundle_id)


def matches(pattern: str, name: str) -> bool:
    """Whole-string match: ``*`` is any run of characters, ``?`` exactly one; nothing is escaped.

    In time linear in both lengths times the number of stars: patterns come from the operator, names from
    anybody.
    """
    at, star, resume, place = 0, -1, 0, 0
    while place < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[place]):
            at, place = at + 1, place + 1
        elif star >= 0:
            resume += 1
            at, place = star + 1, resume
        else:
            return False
    return pattern[at:].strip("*") == ""
