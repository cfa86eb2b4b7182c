"""Certificates that the configuration names: lists in order, without what leads to itself or is absent."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.driven.certificates import preloaded
from adapters.driven.certificates.preloaded import MAX_MEMBERS, flatten, join, preloaded_notes
from adapters.errors import StoreUnavailable
from tests.adapters.certd_parts import DAY, EC_KEYS, NOW, ca_pem

LAW = settings(derandomize=True, deadline=None, max_examples=200)
IDS = "abcdefg"
CONFIGURED = st.dictionaries(
    st.sampled_from(IDS), st.one_of(st.just("/file"), st.lists(st.sampled_from(IDS), max_size=4).map(tuple))
)


def flat(list_id, configured):
    """The files of a list, and what was left out of it."""
    left_out = []
    return list(flatten(list_id, configured, on_cycle=left_out.append)), left_out


def by_the_rule(list_id, configured, above=()):
    """The same in the plainest words."""
    found = []
    for member in configured.get(list_id, ()):
        if not isinstance(configured.get(member), tuple):
            found.append(member)
        elif member not in (*above, list_id):
            found += by_the_rule(member, configured, (*above, list_id))
    return found


@LAW
@given(CONFIGURED, st.sampled_from(IDS))
def test_a_list_is_its_files_in_order(configured, list_id):
    if isinstance(configured.get(list_id), tuple):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preloaded, "MAX_MEMBERS", 10**6)
            assert flat(list_id, configured)[0] == by_the_rule(list_id, configured)


@LAW
@given(CONFIGURED, st.sampled_from(IDS))
def test_what_is_left_out_is_what_leads_back(configured, list_id):
    configured = {one: members for one, members in configured.items() if isinstance(members, tuple)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preloaded, "MAX_MEMBERS", 10**6)
        files, left_out = flat(list_id, configured)
    assert not set(files) & set(configured)
    for member in left_out:
        assert member in reachable(member, configured)


def reachable(start, configured):
    """Ids that a list leads to, over any number of others."""
    found, pending = set(), [start]
    while pending:
        for member in configured.get(pending.pop(), ()):
            if member not in found:
                found.add(member)
                pending.append(member)
    return found


@pytest.mark.parametrize(
    ("configured", "files", "left_out"),
    [
        ({"a": ()}, [], []),
        ({"a": ("x", "y", "x")}, ["x", "y", "x"], []),
        ({"a": ("x", "b", "y"), "b": ("z", "c"), "c": ("w",)}, ["x", "z", "w", "y"], []),
        ({"a": ("a", "x")}, ["x"], ["a"]),
        ({"a": ("b", "x"), "b": ("a", "y")}, ["y", "x"], ["a"]),
        ({"a": ("b", "b"), "b": ("x",)}, ["x", "x"], []),
        ({"a": ("b",), "b": "/file"}, ["b"], []),
    ],
)
def test_lists(configured, files, left_out):
    assert flat("a", configured) == (files, left_out)


def test_a_list_that_doubles_is_given_up():
    """60 short lists name more members than there are seconds in the age of the world."""
    configured = {str(i): (str(i + 1), str(i + 1)) for i in range(60)}
    with pytest.raises(StoreUnavailable, match='"0" has more than 1024 members') as caught:
        flat("0", configured)
    assert caught.value.code == "list-too-long"


def test_a_deep_list_needs_no_stack():
    configured = {str(i): (str(i + 1),) for i in range(MAX_MEMBERS)}
    assert flat("0", configured)[0] == [str(MAX_MEMBERS)]


CONTENTS = st.lists(st.one_of(st.none(), st.text("AB\n", max_size=4).map(str.encode)), max_size=6)


@LAW
@given(CONTENTS)
def test_joined_contents_keep_their_order_and_their_lines(contents):
    joined = join("list", iter(contents))
    there = [content for content in contents if content is not None]
    assert (joined is None) == (not there)
    if joined is None:
        return
    lines = [line for content in there for line in content.split(b"\n") if line]
    assert [line for line in joined.split(b"\n") if line] == lines
    # No more is added than a newline between two.
    assert joined.replace(b"\n", b"") == b"".join(there).replace(b"\n", b"")
    assert 0 <= len(joined) - len(b"".join(there)) < max(1, len([one for one in there if one]))


@pytest.mark.parametrize(
    ("contents", "joined"),
    [
        ([], None),
        ([None, None], None),
        ([None, b""], b""),
        ([b"A"], b"A"),
        ([b"A\n"], b"A\n"),
        ([b"A", b"B"], b"A\nB"),
        ([b"A\n", None, b"B\n"], b"A\nB\n"),
        ([b"", b"A", b"", b"B"], b"A\nB"),
        ([b"\r\n", b"A\r\n", b"B"], b"\r\nA\r\nB"),
    ],
)
def test_joins(contents, joined):
    assert join("list", iter(contents)) == joined


def test_a_list_is_bounded(monkeypatch):
    monkeypatch.setattr(preloaded, "MAX_FILE_BYTES", 5)
    assert join("list", iter([b"AB", b"CD"])) == b"AB\nCD"
    with pytest.raises(StoreUnavailable, match='"list" is larger than 5 bytes') as caught:
        join("list", iter([b"AB", b"CDE"]))
    assert caught.value.code == "list-too-large"


# --- what the operator should know -------------------------------------------------------------------


def note(path):
    [said] = preloaded_notes({"mine": str(path), "list": ("mine",)}, NOW)
    assert said.startswith('preloaded certificate "mine": ')
    return said.removeprefix('preloaded certificate "mine": ')


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (b"", "does not begin with a certificate that can be read"),
        (
            ca_pem(EC_KEYS[0], end=NOW + DAY),
            "expires on 2025-11-25; replace the file before that, it is not renewed here",
        ),
        (ca_pem(EC_KEYS[0], end=NOW), "expired on 2025-11-24; replace the file, it is not renewed here"),
    ],
)
def test_a_file_that_nobody_renews(tmp_path, content, said):
    path = tmp_path / "mine.pem"
    if content is not None:
        path.write_bytes(content)
    assert note(path) == f"{path} {said}"


def test_a_file_that_cannot_be_read(tmp_path):
    assert note(tmp_path) == f"{tmp_path} cannot be read: not a plain file"


@pytest.mark.parametrize(
    ("closed", "barrier"), [("secrets", "search {}/secrets"), (None, "read {}/secrets/mine.pem")]
)
def test_the_first_thing_that_is_refused_is_named(tmp_path, monkeypatch, closed, barrier):
    """Root may read everything, so the kernel's words are put into its mouth."""

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(preloaded, "read_file", refuse)
    monkeypatch.setattr(os, "access", lambda path, *_, **__: closed is None or not path.endswith(closed))
    said = note(tmp_path / "secrets" / "mine.pem")
    assert said == (
        f"uid {os.geteuid()}, gid {os.getegid()} may not {barrier.format(tmp_path)}; give it the right to"
    )
