"""What was found wrong in the files of one configuration, and what is only worth a remark."""

from msgspec import Struct

from adapters.config_forms import looks_secret
from adapters.config_lines import lines_by_key
from adapters.errors import bounded

MAX_PROBLEMS = 100
"A file of nonsense is a megabyte of mistakes; nobody reads past these."


class Finding(Struct, frozen=True, kw_only=True):
    """One mistake, or one remark."""

    file: str
    line: int | None = None
    "From 1; that of the table around it when the key itself is missing."
    column: int | None = None
    key: str = ""
    "Dotted path; empty when it is about the file as a whole."
    text: str
    "What was found, what is allowed, and the nearest valid name."

    def __str__(self) -> str:
        column = "" if self.column is None else f", column {self.column}"
        place = "" if self.line is None else f"line {self.line}{column}: "
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}: {place}{key}{self.text}"


class _Record(Struct):
    """Shared by the files of one configuration."""

    mistakes: list[Finding] = []
    remarks: list[Finding] = []
    left_out: int = 0
    remarks_left_out: int = 0
    texts: dict[str, str] = {}
    "By file, of those that were taken as TOML."
    lines: dict[str, dict[str, int]] = {}
    "By file and key; made when there is something to tell."


class Findings:
    """The mistakes and remarks of one file, in the order they were found, bounded in number and length."""

    def __init__(self, file: str, record: _Record | None = None) -> None:
        self._file = bounded(file, 500)
        self._record = _Record() if record is None else record

    def of(self, file: str) -> "Findings":
        """Where another file of the same configuration reports; ``lines`` and ``notes`` are shared."""
        return Findings(file, self._record)

    def has_text(self, text: str) -> None:
        """What this file says, from now on told with its lines. The text is valid TOML."""
        self._record.texts[self._file] = text

    @property
    def full(self) -> bool:
        return len(self._record.mistakes) >= MAX_PROBLEMS

    @property
    def remarks_full(self) -> bool:
        return len(self._record.remarks) >= MAX_PROBLEMS

    @property
    def mistakes(self) -> tuple[Finding, ...]:
        return self._all(self._record.mistakes, self._record.left_out, "mistakes")

    @property
    def remarks(self) -> tuple[Finding, ...]:
        """What is not a mistake, but not what its writer may have expected either."""
        return self._all(self._record.remarks, self._record.remarks_left_out, "remarks")

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(str(one) for one in self.mistakes)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(str(one) for one in self.remarks)

    def add(self, where: str, text: str, *, line: int | None = None, column: int | None = None) -> None:
        if self.full:
            self._record.left_out += 1
        else:
            self._record.mistakes.append(self._finding(where, text, line, column))

    def unfit(self, where: str, found: str, allowed: str, nearest: str = "") -> None:
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        self.add(where, f"found {found}; allowed {allowed}{hint}")

    def note(self, where: str, text: str) -> None:
        if self.remarks_full:
            self._record.remarks_left_out += 1
        else:
            self._record.remarks.append(self._finding(where, text))

    def _all(self, found: list[Finding], left_out: int, what: str) -> tuple[Finding, ...]:
        if not left_out:
            return tuple(found)
        return (*found, Finding(file=self._file, text=f"and {left_out} more {what} like these"))

    def _finding(self, where: str, text: str, line: int | None = None, column: int | None = None) -> Finding:
        return Finding(
            file=self._file,
            line=self._line_of(where) if line is None else line,
            column=column,
            key=bounded(where, 120),
            text=text,
        )

    def _line_of(self, where: str) -> int | None:
        """That of the key, or of the innermost table around it that is in the file."""
        record = self._record
        if self._file not in record.lines:
            if self._file not in record.texts:
                return None
            record.lines[self._file] = lines_by_key(record.texts[self._file], name_shown)
        lines, path = record.lines[self._file], where
        while path not in lines and path:
            path = path.rpartition(".")[0]
        return lines.get(path)


def name_shown(name: str) -> str:
    """A key as it may be printed: somebody may have put a secret on the left of the equals sign."""
    return "<hidden>" if looks_secret(name) else name
