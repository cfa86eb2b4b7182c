"""What ``identityd demo --once`` checks, in order, and how each one came out."""

from collections.abc import Callable, Mapping

from msgspec import Struct

CHECKS: Mapping[str, Mapping[str, str]] = {
    "register": {
        "registered": "the device registers by itself, through every phase of an attempt",
        "certificate-issued": "what certd.sock serves is what the cloud issued to this device",
        "key-matches": "the published key and certificate belong together",
        "hub-accepts": "the hub accepted it before it was made current, and accepts it from us",
    },
    "renew": {
        "renewed-by-itself": "the certificate is renewed inside its window, without a command",
        "new-certificate": "another serial and another key",
        "old-valid-until-then": "the old certificate was still valid when the new one took over",
        "never-without": "at every record of it, socket and disk held a valid, matching pair",
    },
    "trust bundle": {
        "long-path": "GET /certificates/aziot-dps-trust-bundle answers the documented JSON",
        "short-path": "GET /aziot-dps-trust-bundle answers the same bytes",
        "wrong-version": "another api-version, or none, answers the documented error",
    },
    "reprovision": {
        "bundle-kept": "a bundle changed in the cloud changes nothing here by itself",
        "reprovisioned": "a reprovision registers from the start, and ends Provisioned",
        "bundle-replaced": "both paths serve the new bundle",
    },
    "crash": {
        "killed-in-renewal": "SIGKILL while Renewing and Polling",
        "disk-holds-pair": "the disk still holds a valid, matching pair: the one that was in use",
        "key-was-staged": "the new key lies beside it, the one that was journalled",
        "same-key": "after the restart the same key goes on; no other is staged",
        "same-operation": "and the same operation: nothing was submitted again",
        "recovered": "the renewal ends: Provisioned, with a certificate for that key",
    },
    "replay": {
        "stopped": "asked to stop, the service ends with status 0",
        "replayed": "the whole journal replays to the same effects and positions",
    },
}
"Chapter, name of the check, what it says. This is the whole list: what is not reached is not held."


class Check(Struct, frozen=True, kw_only=True, tag_field="type", tag="check"):
    """One of them, done."""

    chapter: str
    name: str
    about: str
    ok: bool
    seen: str
    after_s: float
    "Since the demo began."


class Result(Struct, frozen=True, kw_only=True, tag_field="type", tag="result", omit_defaults=True):
    """The last word."""

    ok: bool
    checks: int
    failed: tuple[str, ...]
    seconds: float
    kept: str | None = None
    "The directory, when it was not removed."


class Said(Struct, frozen=True, kw_only=True, tag_field="type", tag="begin"):
    """A chapter begins."""

    chapter: str
    about: str
    after_s: float


Tell = Callable[[Check | Said], None]


class Checks:
    """The list, being filled. Each name is told once, in order; one that is passed over has failed."""

    def __init__(self, tell: Tell, elapsed_s: Callable[[], float]) -> None:
        self._tell = tell
        self._elapsed_s = elapsed_s
        self._left = [
            (chapter, name, about) for chapter, row in CHECKS.items() for name, about in row.items()
        ]
        self.done: list[Check] = []

    def begin(self, chapter: str, about: str) -> None:
        """What happens next, for whoever waits for it."""
        self._tell(Said(chapter=chapter, about=about, after_s=self._elapsed_s()))

    def add(self, name: str, ok: bool, seen: str) -> None:
        """One was looked at."""
        while self._left and self._left[0][1] != name:
            self._next(False, "was passed over")
        if not self._left:
            raise AssertionError(f"no check is called {name}, or it was told before")
        self._next(ok, seen)

    def stop(self, why: str) -> None:
        """The life cannot go on: the next check failed for that reason, and none after it was reached."""
        if self._left:
            self._next(False, why)
        while self._left:
            self._next(False, "not reached")

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(check.name for check in self.done if not check.ok)

    def result(self, *, kept: str | None) -> Result:
        """Held only when every check was made and held."""
        return Result(
            ok=not self._left and not self.failed,
            checks=len(self.done),
            failed=self.failed,
            seconds=self._elapsed_s(),
            kept=kept,
        )

    def _next(self, ok: bool, seen: str) -> None:
        chapter, name, about = self._left.pop(0)
        check = Check(chapter=chapter, name=name, about=about, ok=ok, seen=seen, after_s=self._elapsed_s())
        self.done.append(check)
        self._tell(check)
