"""A slice of ``python -m tests.fuzz``: the whole corpus, and some hundreds of what comes of it."""

from unittest import mock

import pytest

from adapters.driven import dps
from adapters.wire import dps as wire
from tests.fuzz.__main__ import Found, mutate
from tests.fuzz.inputs import ENDINGS, PIECES, TARGETS, Ending, Input, Target, from_bytes, kept, to_bytes
from tests.fuzz.mutate import Mutator

SLICE = 300


def test_whatever_the_cloud_says_becomes_a_good_event() -> None:
    figures = mutate(seed=20_261_201, executions=SLICE)
    assert figures.executions == SLICE
    assert len(figures.outcomes) > 40, "the corpus reaches less than it did"


def test_the_same_seed_gives_the_same_inputs() -> None:
    pool = kept()
    first, second = Mutator(7), Mutator(7)
    assert [first.next(pool) for _ in range(50)] == [second.next(pool) for _ in range(50)]


def test_the_corpus_reaches_every_call() -> None:
    assert {given.target for given in kept()} == set(TARGETS)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("target", TARGETS)
def test_bytes_and_back(target: Target, ending: Ending) -> None:
    for piece in PIECES:
        given = Input(target, b"HTTP/1.1 200 OK\r\n\r\n", ending, piece)
        assert from_bytes(to_bytes(given)) == given
    assert from_bytes(b"") == from_bytes(b"\0\0")


# --- what it would find ------------------------------------------------------------------------------


def test_an_exception_is_found() -> None:
    with (
        mock.patch.object(wire, "parse_error", side_effect=KeyError("message")),
        pytest.raises(Found, match="KeyError"),
    ):
        mutate(seed=1, executions=1)


def test_a_quoted_token_is_found() -> None:
    """As it was before the signature was left out of what peers say."""
    with (
        mock.patch.object(wire, "bounded", lambda text, limit=400: text[:limit]),
        pytest.raises(Found, match="secret"),
    ):
        mutate(seed=1, executions=1)


def test_an_unknown_code_is_found() -> None:
    with (
        mock.patch.object(dps, "_class_of", return_value="shrug"),
        pytest.raises(Found, match="class shrug"),
    ):
        mutate(seed=1, executions=1)
