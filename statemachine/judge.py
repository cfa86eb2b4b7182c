"""What is wrong with an issued chain, if anything. The adapter read the facts; judging them is a decision."""

from statemachine import policy
from statemachine.events import ChainFacts, RegistrationAssigned
from statemachine.snapshot import Problem, Snapshot


def chain_problem(snapshot: Snapshot, event: RegistrationAssigned, now: int) -> Problem | None:
    """The first rule that the chain breaks, or None.

    Keys are compared as SPKI (RFC 5280 section 4.1.2.7), names case-insensitively as DPS does.
    """
    chain, staged = event.chain, snapshot.staged
    if chain is None:
        return Problem(
            failure_class="operator",
            code="not-issued",
            message="DPS assigned without issuing a certificate; the one in use is kept. "
            "Is certificate issuance still enabled for this enrolment?",
        )
    if staged is None or chain.spki_sha256 != staged.spki_sha256:
        return _rejected("chain-wrong-key", "the issued certificate is for another key than the staged one")
    if chain.subject_cn.casefold() != staged.common_name.casefold():
        return _rejected(
            "chain-wrong-subject",
            f"the issued certificate names {chain.subject_cn[:80]!r}, asked was {staged.common_name!r}",
        )
    if chain.is_ca:
        return _rejected("chain-is-ca", "the issued certificate is a CA certificate")
    if not chain.intact:
        return _rejected("chain-broken", "the issued chain cannot be put into issuing order")
    return _dates_problem(snapshot, event, chain, now)


def _dates_problem(
    snapshot: Snapshot, event: RegistrationAssigned, chain: ChainFacts, now: int
) -> Problem | None:
    """Dates are judged by the best known time; without one they are not judged at all (design: clock rule).

    The cloud's own Date came over validated TLS in the same answer, so it outranks our clock.
    """
    if chain.not_after_unix_ms <= chain.not_before_unix_ms:
        return _rejected("chain-inverted", "the issued certificate ends before it begins")
    cloud = event.server_date_unix_ms
    if cloud is None and not snapshot.clock.trusted:
        return None
    if chain.not_after_unix_ms <= (now if cloud is None else cloud):
        return _rejected("chain-expired", "the issued certificate has already expired")
    # One that begins in our own clock's future says more about that clock: it is committed and marks it.
    if cloud is not None and chain.not_before_unix_ms > cloud + policy.DATE_TOLERANCE_MS:
        return _rejected("chain-not-yet-valid", "the issued certificate is not valid yet")
    return None


def _rejected(code: str, message: str) -> Problem:
    # A new key cannot hurt, and gives a cloud that mixed two requests up a clean start.
    return Problem(
        failure_class="new_key" if code == "chain-wrong-key" else "retry", code=code, message=message
    )
