"""Files are ranked by how much they speak of the words that were asked for."""

from hypothesis import given
from hypothesis import strategies as st

from aios_storage.core.keyword_index import KeywordIndex, excerpt, fused, words_of
from aios_storage.core.passages import MAX_PASSAGES, PASSAGE_CHARS, passages_of

words = st.lists(st.sampled_from("abcdef"), max_size=8)


def index_of(**texts: str) -> KeywordIndex:
    index = KeywordIndex()
    for name, text in texts.items():
        index.put(name, words_of(text))
    return index


def anyone(_: str) -> bool:
    return True


def test_a_rare_word_counts_more_than_a_common_one_and_a_short_file_more_than_a_long_one() -> None:
    index = index_of(common="the cat", rare="the ocelot", long="the ocelot and " + "very " * 50 + "much else")
    assert [name for name, _ in index.search(words_of("the ocelot"), 9, anyone)] == ["rare", "long", "common"]


def test_case_accents_and_forms_of_letters_do_not_matter() -> None:
    index = index_of(a="STRASSE in Zürich, ﬁne")
    for query in ("straße", "zurich", "Fine"):
        assert index.search(words_of(query), 1, anyone)


def test_only_what_is_allowed_is_found_and_the_limit_counts_it_alone() -> None:
    index = index_of(a="x", b="x", c="x")
    assert [name for name, _ in index.search(["x"], 1, lambda name: name == "c")] == ["c"]


def test_an_empty_index_and_unknown_words_find_nothing() -> None:
    assert KeywordIndex().search(["x"], 5, anyone) == []
    assert index_of(a="").search(["x"], 5, anyone) == []


@given(st.lists(st.tuples(st.sampled_from("uvw"), st.none() | words), max_size=20))
def test_an_index_is_as_if_only_the_newest_texts_had_ever_been_in_it(
    history: list[tuple[str, list[str] | None]],
) -> None:
    index, newest = KeywordIndex(), KeywordIndex()
    texts: dict[str, list[str]] = {}
    for name, text in history:
        if text is None:
            index.remove(name)
            texts.pop(name, None)
        else:
            index.put(name, text)
            texts[name] = text
    for name, text in texts.items():
        newest.put(name, text)
    for query in ("a", "b", "f"):
        assert index.search([query], 9, anyone) == newest.search([query], 9, anyone)
    assert len(index) == len(texts)


def test_an_excerpt_shows_the_place() -> None:
    text = "first line\n" * 100 + "here is the needle in it\n" + "last line\n" * 100
    assert "needle" in excerpt(text, ["needle"])
    assert excerpt(text, ["needle"]).startswith("…")
    assert excerpt("short", ["none"]) == "short"


def test_two_rankings_agree_on_what_both_have() -> None:
    assert fused([["a", "b"], ["b", "c"]], 3)[0][0] == "b"


@given(st.text(max_size=4000))
def test_passages_are_short_and_not_blank(text: str) -> None:
    found = passages_of(text)
    assert len(found) <= MAX_PASSAGES
    assert all(one.strip() and len(one) <= PASSAGE_CHARS + 1 for one in found)


def test_passages_say_what_the_text_says() -> None:
    assert passages_of("one\ntwo\n") == ["one\ntwo"]
    assert len(passages_of("x" * 5000)) == 6
