"""Roots that `trust-bundle install` put into the system's store, and which of them our own TLS disbelieves.

The trust bundle of DPS is for programs on the device; it is never trust for DPS or the hub (design §2).
OpenSSL loads the system's store as a whole, so these roots have to be known to be left out of it:

- a manifest says which they are, and is written before the first file is;
- a file of ours in the store counts as well, so that a lost manifest does not turn into trust;
- what the system trusts by itself is none of them. Installing leaves such a root alone, and one that a
  distribution brings later is told here by the distribution's own sources. The combined bundle file
  cannot tell: it holds what we added.
"""

import os
import re
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from adapters.wire.pem import certificate_blocks, sha256_hex

MANIFEST = "installed-roots.json"
"Beside the service's state."
SYSTEM_ROOT = "/"
"Below it lies the store that OpenSSL loads, whatever root a service has."
MAX_MANIFEST_BYTES = 256 * 1024
MAX_SOURCE_BYTES = 8 * 1024 * 1024
"Of one file with certificates; what a distribution trusts takes about 250 KiB."

UNFINISHED = ".new"
"Of a file that a crash kept from its name. update-ca-trust takes it as it is."

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Layout(Struct, frozen=True, kw_only=True):
    """Where a family of distributions keeps trust. Paths are relative to the root."""

    name: str
    marker: str
    "The directory by which it is known."
    directory: str
    "Where our files go."
    prefix: str
    suffix: str
    "Of the names of our files, around the SHA-256."
    combined: str
    "The file that programs load, made by ``update``."
    sources: tuple[str, ...]
    "Directories whose certificates are all trusted."
    selection: tuple[str, str] | None
    "A file that lists, and the directory with, certificates that are trusted when listed."
    update: tuple[str, ...]
    "The command that makes ``combined``."

    def file_name(self, sha256: str) -> str:
        """The name of our file for that certificate."""
        return f"{self.prefix}{sha256}{self.suffix}"


DEBIAN = Layout(
    name="debian",
    marker="usr/local/share/ca-certificates",
    directory="usr/local/share/ca-certificates/identityd",
    prefix="",
    suffix=".crt",
    combined="etc/ssl/certs/ca-certificates.crt",
    sources=("usr/local/share/ca-certificates",),
    selection=("etc/ca-certificates.conf", "usr/share/ca-certificates"),
    update=("/usr/sbin/update-ca-certificates",),
)
# A distribution's own roots are in a p11-kit file that also holds distrusted ones and ones that are not for
# TLS. Installing asks the combined file instead; one that comes later stays disbelieved, which ca_file mends.
RHEL = Layout(
    name="rhel",
    marker="etc/pki/ca-trust/source/anchors",
    directory="etc/pki/ca-trust/source/anchors",
    prefix="identityd-",
    suffix=".pem",
    combined="etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    sources=("etc/pki/ca-trust/source/anchors", "usr/share/pki/ca-trust-source/anchors"),
    selection=None,
    update=("/usr/bin/update-ca-trust", "extract"),
)
LAYOUTS = (DEBIAN, RHEL)


class Manifest(Struct, frozen=True, kw_only=True):
    """What we put into the store."""

    version: int = 1
    certificates: tuple[str, ...] = ()
    "Hex SHA-256 of the DER, sorted."
    update_due: bool = False
    "Files were changed, and the system's command has not succeeded since."


def read_manifest(state_dir: str) -> Manifest:
    """Empty when there is none. Raises OSError, and ValueError when it is not one of ours."""
    try:
        content = read_bounded(os.path.join(state_dir, MANIFEST), MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return Manifest()
    manifest = msgspec.json.decode(content, type=Manifest)
    if manifest.version != 1 or not all(map(_SHA256.fullmatch, manifest.certificates)):
        raise ValueError("another version, or certificates that are not SHA-256 in hex")
    return manifest


def find_layout(root: str) -> Layout | None:
    """That of the system below ``root``."""
    return next((one for one in LAYOUTS if os.path.isdir(os.path.join(root, one.marker))), None)


def installed_roots(state_dir: str, root: str) -> frozenset[str]:
    """Hex SHA-256 of all that we put, or were about to put, into the store below ``root``.

    Raises nothing: what cannot be read is made up for by the names of our files.
    """
    try:
        found = set(read_manifest(state_dir).certificates)
    except (OSError, ValueError):
        found = set()
    for layout in LAYOUTS:
        found |= {
            sha256 for name in _names(os.path.join(root, layout.directory)) for sha256 in _ours(layout, name)
        }
    return frozenset(found)


def trusted_by_itself(layout: Layout, root: str) -> frozenset[str]:
    """Hex SHA-256 of what the system below ``root`` trusts by sources of its own. Raises nothing."""
    found: set[str] = set()
    for path in _source_files(layout, root):
        ours = _ours(layout, os.path.basename(path)) if _in(layout, root, path) else ()
        found.update(sha256 for sha256 in certificates_of(path) if sha256 not in ours)
    return frozenset(found)


def certificates_of(path: str) -> Iterator[str]:
    """Hex SHA-256 of the certificates in a PEM file; none when it cannot be read."""
    try:
        content = read_bounded(path, MAX_SOURCE_BYTES)
    except (OSError, ValueError):
        return
    for der in certificate_blocks(content):
        if der is not None:
            yield sha256_hex(der)


class _Known(Struct, frozen=True):
    """What was disbelieved, and the look of the files that said so."""

    stamps: tuple[object, ...]
    roots: frozenset[str]


_known: dict[tuple[str, str], _Known] = {}


def distrusted_roots(state_dir: str, root: str) -> frozenset[str]:
    """Hex SHA-256 of the roots that TLS to DPS and the hub must not believe; for ``TlsOptions.distrust``.

    Those installed by us and trusted by nobody else. Asking again is cheap while nothing has changed, so
    that it can be done before each exchange. Blocks; raises nothing.
    """
    stamps = _stamps(state_dir, root)
    known = _known.get((state_dir, root))
    if known is None or known.stamps != stamps:
        roots = installed_roots(state_dir, root)
        # OpenSSL loads the store of the machine, also for a service with a root of its own.
        for place in dict.fromkeys((root, SYSTEM_ROOT)):
            layout = find_layout(place) if roots else None
            if layout is not None:
                roots -= trusted_by_itself(layout, place)
        known = _known[state_dir, root] = _Known(stamps, roots)
    return known.roots


def _stamps(state_dir: str, root: str) -> tuple[object, ...]:
    paths = [os.path.join(state_dir, MANIFEST)]
    for place in dict.fromkeys((root, SYSTEM_ROOT)):
        for layout in LAYOUTS:
            selection = layout.selection or ()
            relative = (layout.directory, layout.combined, *layout.sources, *selection)
            paths += [os.path.join(place, one) for one in relative]
    return tuple(map(stamp, paths))


def stamp(path: str) -> tuple[int, int, int, int] | None:
    """What changes when a file or directory does; None when it cannot be looked at."""
    try:
        now = os.stat(path)
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns


def _in(layout: Layout, root: str, path: str) -> bool:
    return os.path.dirname(path) == os.path.join(root, layout.directory)


def _ours(layout: Layout, name: str) -> tuple[str, ...]:
    """The SHA-256 that the name of a file of ours says, half-written ones included; else nothing."""
    name = name.removesuffix(UNFINISHED)
    if not (name.startswith(layout.prefix) and name.endswith(layout.suffix)):
        return ()
    middle = name.removeprefix(layout.prefix).removesuffix(layout.suffix)
    return (middle,) if _SHA256.fullmatch(middle) else ()


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _source_files(layout: Layout, root: str) -> Iterator[str]:
    for source in layout.sources:
        for directory, _, names in os.walk(os.path.join(root, source)):
            # update-ca-certificates takes only *.crt; update-ca-trust takes every file.
            yield from (
                os.path.join(directory, name) for name in names if layout is RHEL or name.endswith(".crt")
            )
    if layout.selection is not None:
        listing, directory = (os.path.join(root, one) for one in layout.selection)
        try:
            lines = read_bounded(listing, MAX_SOURCE_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return
        chosen = (line.strip() for line in lines)
        yield from (os.path.join(directory, one) for one in chosen if one and one[0] not in "#!")


def read_bounded(path: str, limit: int) -> bytes:
    """At most ``limit`` bytes of a plain file. Raises OSError, ValueError for a NUL in the name."""
    # Non-blocking, so that a FIFO in its place holds nobody.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        return file.read(limit + 1)[:limit]
