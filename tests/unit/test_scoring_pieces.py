import hashlib

from components.data.sources.item import SourceItem
from components.scoring.pieces import PIECE_BYTES, identity, read_batch, survey


def items(*contents: bytes) -> list[SourceItem]:
    return [SourceItem(f"{number:03d}", content) for number, content in enumerate(contents)]


def numbers(pieces) -> list[list[int]]:
    return [[piece.first + place for place in range(len(piece.items))] for piece in pieces]


def test_identity_ignores_the_order_and_counts_every_item():
    batch = items(b"a", b"b", b"c")
    assert identity(batch) == identity(reversed(batch)) == survey(batch).sha256
    assert survey(batch).items == 3


def test_identity_changes_with_a_name_a_content_or_a_problem():
    batch = items(b"a", b"b")
    others = [
        items(b"a", b"x"),
        items(b"b", b"a"),
        [SourceItem("000", b"a"), SourceItem("other", b"b")],
        [SourceItem("000", b"a"), SourceItem("001", b"", problem="symlink")],
        items(b"a", b"b", b"b"),
        [],
    ]
    assert len({identity(batch), *map(identity, others)}) == 1 + len(others)


def test_identity_cannot_be_forged_by_separators_in_names():
    mark = hashlib.sha256(b"x").hexdigest()
    two = [SourceItem("a", b"x"), SourceItem("b", b"x")]
    for forged in (f"a{mark}b", f"a{len(mark)}:{mark}1:b", f"a\n{mark}\nb"):
        assert identity(two) != identity([SourceItem(forged, b"x")])


def test_identity_takes_a_name_that_is_not_unicode():
    assert len(identity([SourceItem("caf\udce9.png", b"x")])) == 64


def test_pieces_end_at_the_batch_size_and_at_every_chunk():
    pieces = read_batch(items(*[b"x"] * 12), batch_size=3, chunk_rows=5)
    assert numbers(pieces) == [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9], [10, 11]]


def test_large_files_make_shorter_pieces():
    half = bytes(PIECE_BYTES // 2)
    pieces = list(read_batch(items(half, half, half, b"x"), batch_size=100, chunk_rows=100))
    assert numbers(pieces) == [[0, 1], [2, 3]]
    assert {piece.chunk for piece in pieces} == {0}


def test_chunks_wholly_done_are_left_out_and_numbers_stay():
    batch = items(*[b"x"] * 12)
    done = {0, 1, 2, 3, 4, 10, 11}
    pieces = list(read_batch(batch, batch_size=3, chunk_rows=5, done=done))
    assert numbers(pieces) == [[5, 6, 7], [8, 9]]
    assert [piece.chunk for piece in pieces] == [1, 1]


def test_a_last_chunk_of_unknown_length_is_read_again():
    batch = items(*[b"x"] * 12)
    pieces = read_batch(iter(batch), batch_size=3, chunk_rows=5, done=set(range(12)))
    assert numbers(pieces) == [[10, 11]]
