"""What a row is, and the keys events are looked up by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, get_args

from statemachine.events import EVENTS, DeadlinePassed, Event
from statemachine.states import Phase, State, Timer
from statemachine.work import SIGNALS, Signal, Work

Guard = Callable[[Work], bool]
Action = Callable[[Work], None]
Position = TypeVar("Position", State, Phase)


def deadline(name: Timer) -> str:
    """Key of DeadlinePassed for one armed name: each name is an event of its own."""
    return f"deadline-passed/{name}"


def key_of_type(kind: type[Event] | type[Signal]) -> str:
    if issubclass(kind, Signal):
        return kind.tag
    tag = kind.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def key_of(event: Event) -> str:
    """The key under which rows for this event are filed."""
    if isinstance(event, DeadlinePassed):
        return _DEADLINE_KEYS[event.name]
    return _KEYS[type(event)]


_KEYS: dict[type[Event], str] = {kind: key_of_type(kind) for kind in EVENTS}
_DEADLINE_KEYS: dict[Timer, str] = {name: deadline(name) for name in get_args(Timer)}

EVENT_KEYS: tuple[str, ...] = (
    *_DEADLINE_KEYS.values(),
    *(key for kind, key in _KEYS.items() if kind is not DeadlinePassed),
)
"Every key an event can have."

SIGNAL_KEYS: tuple[str, ...] = tuple(signal.tag for signal in SIGNALS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row(Generic[Position]):
    """One transition: data, with its reason and where the rule comes from."""

    source: tuple[Position, ...]
    event: str
    "Key of the event or signal, from ``on`` or ``deadline``."
    guard: Guard | None = None
    "A named predicate; None always holds. The first row whose guard holds is taken."
    dest: Position | None = None
    "None stays where it is."
    action: Action | None = None
    why: str
    "One sentence for people: journal, explain and the generated reference show it."
    rule: str
    refuses: bool = False
    "The event is a command and the answer is no; ``why`` says it to the caller."


def on(kind: type[Event] | type[Signal]) -> str:
    """Key of an event or signal type."""
    return key_of_type(kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ignored(Generic[Position]):
    """A pair that may happen and changes nothing, with the reason."""

    source: tuple[Position, ...]
    event: str
    why: str
