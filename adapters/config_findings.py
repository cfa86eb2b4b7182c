"""What was found wrong in the files of one configuration, and what is only worth a remark."""

from msgspec import Struct

from adapters.config_forms import looks_secret
from adapters.errors import bounded

MAX_PROBLEMS = 100
"A file of nonsense is a megabyte of mistakes; nobody reads past these."


class _Record(Struct):
    """Shared by the files of one configuration."""

    lines: list[str] = []
    notes: list[str] = []
    left_out: int = 0


class Findings:
    """The mistakes and remarks of one file, in the order they were found, bounded in number and length."""

    def __init__(self, file: str, record: _Record | None = None) -> None:
        self._file = bounded(file, 500)
        self._record = _Record() if record is None else record

    def of(self, file: str) -> "Findings":
        """Where another file of the same configuration reports; ``lines`` and ``notes`` are shared."""
        return Findings(file, self._record)

    @property
    def full(self) -> bool:
        return len(self._record.lines) >= MAX_PROBLEMS

    @property
    def lines(self) -> tuple[str, ...]:
        record = self._record
        if not record.left_out:
            return tuple(record.lines)
        return (*record.lines, f"{self._file}: and {record.left_out} more mistakes like these")

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not a mistake, but not what its writer may have expected either."""
        return tuple(self._record.notes)

    def add(self, where: str, text: str) -> None:
        if self.full:
            self._record.left_out += 1
        else:
            self._record.lines.append(self._line(where, text))

    def unfit(self, where: str, found: str, allowed: str, nearest: str = "") -> None:
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        self.add(where, f"found {found}; allowed {allowed}{hint}")

    def note(self, where: str, text: str) -> None:
        if len(self._record.notes) < MAX_PROBLEMS:
            self._record.notes.append(self._line(where, text))

    def _line(self, where: str, text: str) -> str:
        return f"{self._file}: {bounded(where, 120)}: {text}" if where else f"{self._file}: {text}"


def name_shown(name: str) -> str:
    """A key as it may be printed: somebody may have put a secret on the left of the equals sign."""
    return "<hidden>" if looks_secret(name) else name
