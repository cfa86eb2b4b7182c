"""What the core raises. Nothing else leaves it."""


class TableMistake(Exception):
    """A row is wrong: misspelt state, shadowed, unnamed guard, pair without an answer. Raised at import."""


class JournalUnreadable(Exception):
    """A journal line is not what this release writes or can read; the message says what and where."""
