"""The names under which the original keeps its files, as links through the pointer.

They are made once and then only followed; flipping the pointer is what switches them.
"""

import contextlib
import os

from adapters.driven.files import make_durable_directory, remove_tree
from adapters.driven.generations import BUNDLE, CHAIN, KEY, NEW, Layout, certificate_file_name
from adapters.driven.settled import Settled
from adapters.durable import sync_directory

_TEMPORARY = f"link{NEW}"


class PublishedNames:
    """Writes below certd's and keyd's homes, these names only. Every method raises OSError."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._settled = Settled()

    def show(self, bundle_id: str | None = None, *, over_files: bool = False) -> None:
        """Make what is missing: certificate, key, and the bundle under its id.

        A file of the original under one of the names is replaced only with ``over_files``: that is
        right once a generation of ours is current, and would lose the device before.
        """
        wanted = [(self.layout.certificate_link, CHAIN), (self.layout.key_link, KEY)]
        if bundle_id is not None:
            wanted.append((os.path.join(self.layout.certs, certificate_file_name(bundle_id)), BUNDLE))
        for link, name in wanted:
            if over_files or os.path.islink(link) or not os.path.lexists(link):
                self._link(link, name)

    def drop_old_bundles(self, bundle_id: str | None) -> None:
        """Only one id shows the bundle; which others did is told by where they lead."""
        target = self.layout.target(self.layout.certs, BUNDLE)
        kept = None if bundle_id is None else certificate_file_name(bundle_id)
        dropped = False
        for name in os.listdir(self.layout.certs):
            path = os.path.join(self.layout.certs, name)
            if name != kept and os.path.islink(path) and os.readlink(path) == target:
                os.unlink(path)
                dropped = True
        if dropped:
            sync_directory(self.layout.certs)

    def hide(self) -> None:
        """Remove certificate and key by name, whoever filed something there, and our links to bundles."""
        for path in (self.layout.certificate_link, self.layout.key_link):
            remove_tree(path)
            directory = os.path.dirname(path)
            if os.path.isdir(directory):
                # Also when it was gone: an earlier try may have got no further than that.
                sync_directory(directory)
        with contextlib.suppress(FileNotFoundError):
            self.drop_old_bundles(None)

    def sweep(self) -> None:
        """Remove what a crash left half-made."""
        for directory in (self.layout.certs, self.layout.keys):
            remove_tree(os.path.join(directory, _TEMPORARY))

    def _link(self, link: str, name: str) -> None:
        directory = os.path.dirname(link)
        target = self.layout.target(directory, name)
        if os.path.islink(link) and os.readlink(link) == target:
            self._settled.settle(directory)
            return
        with self._settled.changing(directory):
            self._make(link, target)

    def _make(self, link: str, target: str) -> None:
        directory = os.path.dirname(link)
        make_durable_directory(directory)
        temporary = os.path.join(directory, _TEMPORARY)
        remove_tree(temporary)
        try:
            os.symlink(target, temporary)
            if os.path.isdir(link) and not os.path.islink(link):
                remove_tree(link)
            os.rename(temporary, link)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_directory(directory)
