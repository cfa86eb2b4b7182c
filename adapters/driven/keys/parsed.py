"""Key pairs that were used of late, parsed: parsing takes longer than signing, for RSA by far."""

import hashlib
import threading
from collections import OrderedDict

from adapters.wire.private_keys import KeyPair

PARSED_PAIRS = 32


class ParsedPairs:
    """By the content of their files, so that a file that has changed is never taken for the old one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parsed: OrderedDict[bytes, KeyPair] = OrderedDict()

    def parsed(self, pem: bytes) -> KeyPair:
        """Raises KeyUnreadable."""
        digest = hashlib.sha256(pem).digest()
        with self._lock:
            pair = self._parsed.get(digest)
            if pair is not None:
                self._parsed.move_to_end(digest)
                return pair
        pair = KeyPair(pem)
        with self._lock:
            self._parsed[digest] = pair
            while len(self._parsed) > PARSED_PAIRS:
                self._parsed.popitem(last=False)
        return pair

    def forget(self) -> None:
        """None of them stays in memory for the next use."""
        with self._lock:
            self._parsed.clear()
