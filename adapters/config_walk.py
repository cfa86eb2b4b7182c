"""A parsed TOML tree against the rows of its kind of file: what passed, and every mistake.

``msgspec.convert`` stops at the first mistake; a person wants them all. So each key is checked on its own
against its row, and the Structs are filled with what passed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from adapters.config_findings import Findings, name_shown
from adapters.config_forms import Unfit, hidden, nearest_of, printable_name, shown
from adapters.config_rows_original import ID_FORM
from adapters.config_setting import ANY_ID, Setting

NOT_YET: Mapping[tuple[str, str], str] = {
    ("provisioning.attestation.method", "tpm"): (
        'in this release "symmetric_key" or "x509"; the way by TPM comes later'
    ),
    **{
        (f"{table}.method", "est"): 'in this release "self_signed" or "local_ca"; the way by EST comes later'
        for table in (
            "provisioning.attestation.identity_cert",
            "provisioning.authentication.identity_cert",
            "cert_issuance.local_ca.cert",
            f"cert_issuance.{ANY_ID}",
        )
    },
}
"Valid in the original, not here yet: (key, value), and what is allowed instead."

TABLE_FORMS = {
    "provisioning.attestation.symmetric_key": (
        'a table with one of value and uri: symmetric_key = { value = "BASE64" }'
    ),
    "provisioning.authentication.device_id_pk": (
        'a table with one of value and uri: device_id_pk = { value = "BASE64" }'
    ),
    "provisioning.payload": 'a table: payload = { uri = "file:///path" }',
}
"Tables that people write as a bare value."

_SECRET_TABLES = frozenset(path for path in TABLE_FORMS if path != "provisioning.payload")


class Schema(Struct, frozen=True, kw_only=True):
    """The keys of one kind of file."""

    rows: Mapping[str, Setting]
    tables: frozenset[str]
    "Paths of the tables those keys live in."
    arrays: frozenset[str]
    "Those of them that are arrays of tables."
    unread: Mapping[str, str]
    "Paths of keys that are known and not looked into, each with the remark it gets; empty for none."
    not_yet: Mapping[tuple[str, str], str]
    "Values of the original that are refused here: (key, value), and what is allowed instead."

    def place(self, at: str, name: str) -> str | None:
        """The path whose row, table or remark is that of the key ``name`` in the table ``at``."""
        start = f"{at}." if at else ""
        for last in (name, ANY_ID) if "." not in name and name != ANY_ID else (ANY_ID,):
            path = start + last
            if path in self.rows or path in self.tables or path in self.unread:
                return path
        return None

    def names_in(self, at: str, *, unread: bool) -> list[str]:
        start = f"{at}." if at else ""
        paths = (*self.rows, *self.unread) if unread else (*self.rows,)
        return sorted({p[len(start) :].partition(".")[0] for p in paths if p.startswith(start)})


def schema(
    rows: Iterable[Setting],
    *,
    unread: Mapping[str, str],
    arrays: Iterable[str] = (),
    not_yet: Mapping[tuple[str, str], str] = NOT_YET,
) -> Schema:
    by_path = {row.path: row for row in rows}
    tables = {path[:dot] for path in by_path for dot, c in enumerate(path) if c == "."}
    return Schema(
        rows=by_path, tables=frozenset(tables), arrays=frozenset(arrays), unread=unread, not_yet=not_yet
    )


class Element(Struct, frozen=True, kw_only=True):
    """One table of an array of tables."""

    label: str
    table: dict[str, Any]
    "As it stands there."
    values: dict[str, Any]
    "What of it passed."


def walk(known: Schema, tree: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """What passed, by path. Below a path with ``<id>`` there is a dict by id (where that is a table: of the
    names in it), at an array of tables a list of its Elements."""
    values: dict[str, Any] = {}
    _Walk(known, findings, values).table(tree, "", "")
    return values


class _Walk:
    def __init__(self, known: Schema, findings: Findings, values: dict[str, Any]) -> None:
        self._known = known
        self._findings = findings
        self._values = values

    def table(self, table: dict[str, Any], at: str, label: str, key: str | None = None) -> None:
        """``at`` is the path of the table, ``label`` the same for people, ``key`` the id in it."""
        method = table.get("method")
        if isinstance(method, str) and (f"{at}.method", method) in self._known.not_yet:
            # Its keys are not ours to check yet, and half of them are secrets.
            table = {"method": method}
        for name, value in table.items():
            place = self._known.place(at, name)
            if place is None:
                self._unknown(name, at, label)
                continue
            said = f"{label}.{name_shown(name)}" if label else name_shown(name)
            if place in self._known.unread:
                if self._known.unread[place]:
                    self._findings.note(said, self._known.unread[place])
                continue
            named = key
            if place.endswith(ANY_ID):
                named = name
                if not self._is_id(name, said):
                    continue
            self._entry(value, place, said, named)

    def _is_id(self, name: str, said: str) -> bool:
        try:
            printable_name(name)
        except Unfit:
            self._findings.unfit(said, f"an id of {len(name)} characters", ID_FORM)
            return False
        return True

    def _entry(self, value: object, place: str, said: str, key: str | None) -> None:
        if place in self._known.arrays:
            self._array(value, place, said)
        elif place in self._known.tables and isinstance(value, dict):
            if place.endswith(ANY_ID):
                # An empty table is there all the same, and so is a key whose value did not pass.
                self._values.setdefault(place, {})[key] = frozenset(value)
            self.table(value, place, said, key)
        elif place in self._known.rows:
            self._take(self._known.rows[place], value, said, key)
        else:
            found = hidden(value) if place in _SECRET_TABLES else shown(value)
            self._findings.unfit(said, found, TABLE_FORMS.get(place, "a table"))

    def _array(self, value: object, place: str, said: str) -> None:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self._findings.unfit(said, shown(value), f"an array of tables: [[{place}]]")
            return
        elements = self._values.setdefault(place, [])
        for number, item in enumerate(value, start=1):
            element = Element(label=f"{said}[{number}]", table=item, values={})
            _Walk(self._known, self._findings, element.values).table(item, place, element.label)
            elements.append(element)

    def _take(self, setting: Setting, value: object, said: str, key: str | None) -> None:
        try:
            if isinstance(value, str) and (setting.path, value) in self._known.not_yet:
                raise Unfit(allowed=self._known.not_yet[setting.path, value])
            kept = _checked(setting, value)
        except Unfit as unfit:
            found = unfit.found or (hidden(value) if setting.secret else shown(value))
            nearest = (
                nearest_of(value, setting.choices) if isinstance(value, str) and not unfit.allowed else ""
            )
            self._findings.unfit(said, found, unfit.allowed or setting.allowed, nearest)
            return
        if key is None:
            self._values[setting.path] = kept
        else:
            self._values.setdefault(setting.path, {})[key] = kept

    def _unknown(self, name: str, at: str, label: str) -> None:
        findings = self._findings
        path = f"{label}.{name_shown(name)}" if label else name_shown(name)
        if findings.remarks_full:
            findings.note(path, "")
            return
        nearest = nearest_of(name, self._known.names_in(at, unread=True))
        elsewhere = [
            p for p in (*self._known.rows, *self._known.tables) if p.rpartition(".")[2] == name != ANY_ID
        ]
        if len(elsewhere) == 1:
            # Typically a key below a [table] header that was meant to stand above it.
            nearest = elsewhere[0]
        # The original's keys nobody is reading are left out, unless that is what was misspelt.
        listed = ", ".join(self._known.names_in(at, unread=bool(at)))
        hint = f'; did you mean "{nearest}"?' if nearest else f"; known here: {listed}"
        findings.note(path, f"an unknown key, not used{hint}")


def _checked(setting: Setting, value: Any) -> object:  # noqa: ANN401 - whatever stands in the file
    if setting.choices and not setting.check:
        if isinstance(value, str) and value in setting.choices:
            return value
        raise Unfit
    whole = isinstance(value, int) and not isinstance(value, bool)
    match setting.kind:
        case "boolean" if isinstance(value, bool):
            return value
        case "integer" | "integer or text" if whole:
            if setting.low is not None and setting.high is not None and setting.low <= value <= setting.high:
                return value
        case "text" | "integer or text" | "text or list of text" if isinstance(value, str):
            return _form(setting, value)
        case "list of text" | "text or list of text" if isinstance(value, list):
            return _form(setting, value)
        case "table of text" if isinstance(value, dict):
            return _form(setting, value)
    raise Unfit


def _form(setting: Setting, value: object) -> object:
    assert setting.check is not None, f"{setting.path} says in words only what it may hold"
    return setting.check(value)
