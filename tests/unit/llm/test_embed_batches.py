"""Which texts go to the embedding server together."""

from aios_llm.embedding.batches import Batches, Place


def test_a_long_list_does_not_delay_the_one_text_behind_it() -> None:
    batches = Batches()
    batches.add(1, [f"long {number}" for number in range(100)])
    batches.add(2, ["short"])
    first = batches.take(4)
    assert (Place(2, 0), "short") in first
    assert len(batches) == 97


def test_every_text_goes_once_and_in_its_place() -> None:
    batches = Batches()
    texts = {call: [f"{call}.{index}" for index in range(call)] for call in range(1, 8)}
    for call, own in texts.items():
        batches.add(call, own)
    seen: dict[tuple[int, int], str] = {}
    while batch := batches.take(5):
        assert len(batch) <= 5
        for place, text in batch:
            assert (place.call, place.index) not in seen
            seen[place.call, place.index] = text
    assert seen == {(call, index): text for call, own in texts.items() for index, text in enumerate(own)}
    assert len(batches) == 0


def test_what_was_given_up_is_not_embedded() -> None:
    batches = Batches()
    batches.add(1, ["a", "b"])
    batches.add(2, ["c"])
    batches.take(1)
    batches.remove(1)
    batches.remove(1)
    assert [text for _, text in batches.take(10)] == ["c"]
    assert len(batches) == 0
