"""The roots that OpenSSL would load by itself, without some of them.

A context cannot forget a root, so those to be left out must not be loaded: file and directory of the
system, or of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, are read here the way OpenSSL reads them.
"""

import os
import re
import ssl
from collections.abc import Iterator

from msgspec import Struct

from adapters.wire.installed_roots import MAX_SOURCE_BYTES, read_bounded, stamp
from adapters.wire.pem import certificate_blocks, sha256_hex

_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]{1,4}")
"The names that OpenSSL looks for in a directory, made by `openssl rehash`."


class _Filtered(Struct, frozen=True):
    """What is left, for as long as the files look the same."""

    of: tuple[object, ...]
    ders: tuple[bytes, ...]


_filtered: _Filtered | None = None


def load_system_roots(context: ssl.SSLContext, distrust: frozenset[str]) -> None:
    """Load what ``set_default_verify_paths`` would, but for the certificates with these hex SHA-256.

    The whole directory is loaded now, not searched when a peer is checked. What cannot be read is left out,
    as OpenSSL does. Blocks: 10 to 30 ms, and 10 more when the files have changed since the last call.
    """
    for der in _ders(distrust):
        try:
            context.load_verify_locations(cadata=der)
        except ssl.SSLError:
            continue


def _ders(distrust: frozenset[str]) -> tuple[bytes, ...]:
    # One set is kept, 150 KB of it: a service has one list. Threads that meet here do the work twice.
    global _filtered
    paths = list(_paths())
    of = (distrust, *((path, stamp(path)) for path in paths))
    kept = _filtered
    if kept is None or kept.of != of:
        kept = _filtered = _Filtered(of, tuple(_read(paths, distrust)))
    return kept.ders


def _read(paths: list[str], distrust: frozenset[str]) -> Iterator[bytes]:
    seen = set(distrust)
    for path in paths:
        try:
            content = read_bounded(path, MAX_SOURCE_BYTES)
        except (OSError, ValueError):
            continue
        for der in certificate_blocks(content):
            if der is not None and (sha256 := sha256_hex(der)) not in seen:
                seen.add(sha256)
                yield der


def _paths() -> Iterator[str]:
    known = ssl.get_default_verify_paths()
    yield os.environ.get(known.openssl_cafile_env, known.openssl_cafile)
    for directory in os.environ.get(known.openssl_capath_env, known.openssl_capath).split(os.pathsep):
        try:
            names = sorted(os.listdir(directory))
        except (OSError, ValueError):
            continue
        yield from (os.path.join(directory, name) for name in names if _HASHED.fullmatch(name))
