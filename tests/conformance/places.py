"""Where the original's files are, when they are at hand."""

from pathlib import Path

CONFORMANCE = Path(__file__).resolve().parents[3] / "shared" / "conformance"
