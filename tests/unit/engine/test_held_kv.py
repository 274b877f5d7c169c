"""KV on its way between engines: how it travels, which pieces go together, and what is forgotten first."""

import hashlib

import pytest

from aios_engine.core.kv_image import KvImage, KvWanted, attached, decode, digest, encode
from aios_engine.core.kv_shelf import KvShelf, ShelvedKv

COURSE = (11, 12, 13, 14, 15, 16, 17, 18)
NOTHING = digest(())


def piece(first: int, end: int, course: tuple[int, ...] = COURSE) -> KvImage:
    """The image of a part of a course; its data are its tokens."""
    return KvImage("rows", first, digest(course[:first]), course[first:end], bytes(course[first:end]))


def test_a_digest_is_of_the_ids_as_little_endian_numbers() -> None:
    wanted = hashlib.sha256(b"\x01\0\0\0\x02\x03\0\0").hexdigest()[:32]
    assert digest((1, 0x302)) == wanted
    assert digest(()) == "e3b0c44298fc1c149afbf4c8996fb924"


def test_images_that_follow_each_other_travel_unchanged() -> None:
    images = [
        KvImage("rows", 0, NOTHING, (1, 2, 3), bytes(range(256)) + b"\n\n"),
        KvImage("state", 7, "before", (4,), b""),
        KvImage("rows", 3, "before", (5, 6), b"{}\n"),
    ]
    assert decode(b"".join(encode(image, "model") for image in images), "model") == images


@pytest.mark.parametrize("damage", [b"", b"\n", b"no json\nstate", b'{"format":"aios-kv-1"}\nstate', b"{}" * 100])
def test_what_is_no_kv_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="no KV image"):
        decode(damage, "model")
    with pytest.raises(ValueError, match="no KV image"):
        decode(encode(piece(0, 2), "model") + (damage or b"?"), "model")


def test_kv_of_another_model_and_damaged_kv_are_refused() -> None:
    first, second = encode(piece(0, 3), "one"), encode(piece(3, 5), "one")
    for data in (first, first + second):
        with pytest.raises(ValueError, match="another model"):
            decode(data, "two")
        with pytest.raises(ValueError, match="damaged"):
            decode(data[:-1] + b"?", "one")
        with pytest.raises(ValueError, match="damaged"):
            decode(data[:-1], "one")


def test_pieces_go_behind_each_other() -> None:
    images = [piece(0, 3), piece(3, 4), piece(4, 8)]
    assert attached(images) == (COURSE, images)


def test_a_later_piece_replaces_all_from_its_first_token_on() -> None:
    other = (*COURSE[:4], 91, 92)
    images = [piece(0, 8), piece(4, 5, other), piece(5, 6, other)]
    assert attached(images) == (other, images)


def test_a_piece_behind_a_hole_is_left_out() -> None:
    images = [piece(0, 3), piece(4, 8)]
    assert attached(images) == (COURSE[:3], images[:1])


def test_a_piece_of_another_course_is_left_out_and_the_next_of_this_one_is_used() -> None:
    other = (*COURSE[:2], 91, 92, 93)
    images = [piece(0, 4), piece(4, 5, other), piece(4, 8)]
    assert attached(images) == (COURSE, [images[0], images[2]])


def test_nothing_attaches_where_the_beginning_is_missing() -> None:
    assert attached([piece(1, 3), piece(3, 4)]) == ((), [])


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        (KvWanted(), (0, 8)),
        (KvWanted(max_bytes=35), (0, 3)),
        (KvWanted(max_bytes=1), (0, 1)),
        (KvWanted(5, digest(COURSE[:5])), (5, 8)),
        (KvWanted(5, digest(COURSE[:5]), 20), (5, 7)),
        (KvWanted(5, digest(COURSE[:4])), (0, 8)),
        (KvWanted(5, None), (0, 8)),
        (KvWanted(8, "whatever it is"), (8, 8)),
        (KvWanted(9, digest(COURSE)), (9, 9)),
    ],
)
def test_what_the_asker_has_is_not_given_again(wanted: KvWanted, part: tuple[int, int]) -> None:
    assert wanted.part(COURSE, 10) == part


def test_where_rows_cannot_be_taken_out_the_whole_is_given_once_there_is_more() -> None:
    assert KvWanted(5, digest(COURSE[:5]), 1).part(COURSE, None) == (0, 8)
    assert KvWanted(8).part(COURSE, None) == (8, 8)


def test_the_oldest_kv_is_forgotten_when_there_is_no_room() -> None:
    shelf = KvShelf(10)
    assert shelf.put("a", ShelvedKv((1,), b"1234")) == []
    assert shelf.put("b", ShelvedKv((1,), b"1234")) == []
    assert shelf.put("c", ShelvedKv((1,), b"1234")) == ["a"]
    assert shelf.get("a") is None
    assert shelf.get("c") == ShelvedKv((1,), b"1234")


def test_kv_larger_than_all_room_is_not_kept() -> None:
    shelf = KvShelf(3)
    assert shelf.put("a", ShelvedKv((1,), b"1234")) == ["a"]
    assert shelf.get("a") is None


def test_forgetting_gives_the_room_back() -> None:
    shelf = KvShelf(4)
    shelf.put("a", ShelvedKv((1,), b"1234"))
    assert shelf.drop("a")
    assert not shelf.drop("a")
    assert shelf.put("b", ShelvedKv((1,), b"1234")) == []
