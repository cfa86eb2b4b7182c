"""Which release this is. Plain values: a service at rest has no use for a reader of package metadata."""

VERSION = "0.1.0"
"pyproject.toml reads it here."

BUILD_UNIX_MS = 1_795_564_800_000
"Date of this release, 2026-11-25: no clock can truly be earlier."
