import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_engine.core.planner import Admission, Planner, PlannerLimits, PrefillChunk, Step


def planner(
    slots: int = 2, slot_tokens: int = 100, chunk: int = 4, copy_threshold: int = 3, prompt_steps: int = 6
) -> Planner:
    return Planner(PlannerLimits(slots, slot_tokens, chunk, copy_threshold, prompt_steps))


def prefill_all(plan: Planner, sequence: int) -> None:
    while True:
        chunk = next(iter(plan.next_step().prefills), None)
        assert chunk is not None
        assert chunk.sequence == sequence
        plan.prefilled(chunk)
        if chunk.last:
            return


def test_a_prompt_is_cut_into_chunks_and_then_decoded_token_by_token() -> None:
    plan = planner()
    plan.enqueue(1, range(6), 10)
    assert plan.admit() == [Admission(1, slot=0, reused=0, source=None)]
    first = plan.next_step()
    assert first == Step((), (PrefillChunk(1, 0, 4, last=False),))
    plan.prefilled(PrefillChunk(1, 0, 4, last=False))
    assert plan.next_step() == Step((), (PrefillChunk(1, 4, 6, last=True),))
    plan.prefilled(PrefillChunk(1, 4, 6, last=True))
    assert plan.next_step() == Step((1,))


def test_a_long_prompt_does_not_stop_the_others_from_getting_tokens() -> None:
    plan = planner()
    plan.enqueue(1, [1, 2], 10)
    plan.enqueue(2, range(50), 10)
    plan.admit()
    prefill_all(plan, 1)
    assert plan.next_step() == Step((1,), (PrefillChunk(2, 0, 4, last=False),))


def test_one_prompt_is_worked_on_at_a_time_in_order_of_arrival() -> None:
    plan = planner()
    plan.enqueue(1, range(10), 10)
    plan.enqueue(2, range(20, 30), 10)
    plan.admit()
    prefill_all(plan, 1)
    chunk = next(iter(plan.next_step().prefills), None)
    assert chunk is not None
    assert chunk.sequence == 2


def test_more_sequences_than_slots_wait_in_order() -> None:
    plan = planner(slots=2)
    for identity in (1, 2, 3, 4):
        plan.enqueue(identity, [identity], 5)
    assert [admission.sequence for admission in plan.admit()] == [1, 2]
    assert (plan.waiting, plan.running) == (2, 2)
    plan.finish(2)
    assert [(a.sequence, a.slot) for a in plan.admit()] == [(3, 1)]


def test_tokens_are_reserved_for_prompt_and_answer_until_the_end() -> None:
    plan = planner()
    plan.enqueue(1, [1, 2, 3], 7)
    assert plan.reserved_tokens == 0
    plan.admit()
    assert plan.reserved_tokens == 10
    plan.finish(1)
    assert plan.reserved_tokens == 0


@pytest.mark.parametrize(("prompt", "new"), [(range(91), 10), ([], 1)])
def test_what_cannot_fit_a_slot_is_refused(prompt: list[int], new: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        planner(slot_tokens=100).enqueue(1, prompt, new)


def test_a_waiting_sequence_can_be_cancelled() -> None:
    plan = planner(slots=1)
    plan.enqueue(1, [1], 1)
    plan.enqueue(2, [2], 1)
    plan.admit()
    assert plan.finish(2) is None
    assert plan.waiting == 0
    assert plan.finish(1) == 0
    assert plan.next_step().empty


def test_a_prompt_with_the_beginning_of_an_earlier_one_starts_there() -> None:
    plan = planner()
    plan.enqueue(1, [1, 2, 3, 4, 5], 5)
    plan.admit()
    prefill_all(plan, 1)
    plan.decoded(1, 9)
    plan.finish(1)
    plan.enqueue(2, [1, 2, 3, 4, 5, 9, 7], 5)
    assert plan.admit() == [Admission(2, slot=0, reused=6, source=None)]
    assert plan.next_step().prefills == (PrefillChunk(2, 6, 7, last=True),)


def test_the_same_prompt_again_computes_its_last_token_only() -> None:
    plan = planner()
    plan.enqueue(1, [1, 2, 3], 5)
    plan.admit()
    prefill_all(plan, 1)
    plan.finish(1)
    plan.enqueue(2, [1, 2, 3], 5)
    assert plan.admit()[0].reused == 2


def test_a_prefix_is_copied_from_a_running_sequence() -> None:
    plan = planner()
    plan.enqueue(1, [1, 2, 3, 4, 5], 5)
    plan.admit()
    prefill_all(plan, 1)
    plan.enqueue(2, [1, 2, 3, 4, 8], 5)
    assert plan.admit() == [Admission(2, slot=1, reused=4, source=0)]


def test_a_short_prefix_is_not_worth_a_copy() -> None:
    plan = planner(copy_threshold=5)
    plan.enqueue(1, [1, 2, 3, 4, 5], 5)
    plan.admit()
    prefill_all(plan, 1)
    plan.enqueue(2, [1, 2, 3, 4, 8], 5)
    assert plan.admit() == [Admission(2, slot=1, reused=0, source=None)]


def test_a_sequence_that_wants_all_logits_reuses_nothing() -> None:
    plan = planner()
    plan.enqueue(1, [1, 2, 3], 5)
    plan.admit()
    prefill_all(plan, 1)
    plan.finish(1)
    plan.enqueue(2, [1, 2, 3], 5, reuse=False)
    assert plan.admit()[0].reused == 0


def test_a_forgotten_slot_is_not_reused() -> None:
    plan = planner(slots=1)
    plan.enqueue(1, [1, 2, 3], 5)
    plan.admit()
    prefill_all(plan, 1)
    plan.finish(1)
    plan.forget(0)
    plan.enqueue(2, [1, 2, 3], 5)
    assert plan.admit()[0].reused == 0


def test_the_longest_unused_slot_is_taken_first() -> None:
    plan = planner(slots=2)
    for identity, token in ((1, 10), (2, 20)):
        plan.enqueue(identity, [token, token], 5)
        plan.admit()
        prefill_all(plan, identity)
    plan.finish(2)
    plan.finish(1)
    plan.enqueue(3, [30, 30], 5)
    assert plan.admit()[0].slot == 0


def test_sequences_run_in_the_order_of_their_slots() -> None:
    plan = planner(slots=3)
    for identity in (1, 2, 3):
        plan.enqueue(identity, [identity, identity], 5)
        plan.admit()
        prefill_all(plan, identity)
    plan.finish(1)
    plan.enqueue(4, [9, 9], 5)
    assert plan.admit()[0].slot == 0
    prefill_all(plan, 4)
    assert plan.next_step().decode == (4, 2, 3)


def test_a_sequence_starts_beside_a_running_one() -> None:
    plan = planner(slots=4)
    for identity in (1, 2, 3, 4):
        plan.enqueue(identity, [identity, identity], 5)
        plan.admit()
        prefill_all(plan, identity)
    for identity in (1, 2, 4):
        plan.finish(identity)
    plan.enqueue(5, [9, 9], 5)
    assert plan.admit()[0].slot == 1, "the longest unused of those beside slot 2"


def test_a_long_prefix_is_worth_a_slot_apart_from_the_others() -> None:
    plan = planner(slots=4)
    for identity in (1, 2, 3, 4):
        plan.enqueue(identity, [identity] * 6, 5)
        plan.admit()
        prefill_all(plan, identity)
    for identity in (1, 2, 4):
        plan.finish(identity)
    plan.enqueue(5, [1] * 6, 5)
    assert plan.admit() == [Admission(5, slot=0, reused=5, source=None)]


@settings(deadline=None)
@given(st.data())
def test_whatever_comes_and_goes_every_sequence_gets_its_whole_prompt_once_and_reuses_only_what_is_there(
    data: st.DataObject,
) -> None:
    plan = planner(slots=3, slot_tokens=40, chunk=4)
    held: dict[int, list[int]] = {0: [], 1: [], 2: []}
    prompts: dict[int, list[int]] = {}
    where: dict[int, int] = {}
    computed: dict[int, int] = {}
    for identity in range(12):
        prompt = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=12))
        prompts[identity] = prompt
        plan.enqueue(identity, prompt, 4)
        for _ in range(data.draw(st.integers(0, 4))):
            for admission in plan.admit():
                source = held[admission.slot if admission.source is None else admission.source]
                assert source[: admission.reused] == prompts[admission.sequence][: admission.reused]
                held[admission.slot] = list(source[: admission.reused])
                where[admission.sequence] = admission.slot
                computed[admission.sequence] = admission.reused
            step = plan.next_step()
            for sequence in step.decode:
                assert computed[sequence] == len(prompts[sequence])
                token = data.draw(st.integers(0, 1))
                plan.decoded(sequence, token)
                held[where[sequence]].append(token)
                if data.draw(st.booleans()):
                    plan.finish(sequence)
            for chunk in step.prefills:
                assert chunk.start == computed[chunk.sequence]
                held[where[chunk.sequence]] += prompts[chunk.sequence][chunk.start : chunk.stop]
                computed[chunk.sequence] = chunk.stop
                plan.prefilled(chunk)
            assert plan.running <= 3
            assert plan.reserved_tokens <= plan.limits.total_tokens


def pause(plan: Planner, sequence: int, prompt: list[int], key: str) -> None:
    """Runs a prompt and holds its KV."""
    plan.enqueue(sequence, prompt, 5)
    plan.admit()
    prefill_all(plan, sequence)
    plan.finish(sequence, key)


def test_a_paused_sequences_slot_is_the_last_to_be_given_away() -> None:
    plan = planner(slots=2)
    pause(plan, 1, [1, 2, 3, 4, 5], "paused")
    held = plan.holding("paused")
    assert held == (0, (1, 2, 3, 4, 5))
    plan.enqueue(2, [7, 8], 5)
    assert plan.admit() == [Admission(2, slot=1, reused=0, source=None)]
    plan.enqueue(3, [9], 5)
    assert plan.admit() == [Admission(3, slot=0, reused=0, source=None, shelved="paused")]
    assert plan.holding("paused") is None
    assert plan.on_shelf("paused") == (1, 2, 3, 4, 5)


def test_a_paused_sequence_goes_on_in_its_slot_and_computes_one_token() -> None:
    plan = planner(slots=2)
    pause(plan, 1, [1, 2, 3, 4, 5], "paused")
    plan.enqueue(2, [1, 2, 3, 4, 5, 6], 5, kv_from="paused")
    assert plan.admit() == [Admission(2, slot=0, reused=5, source=None)]
    assert plan.holding("paused") is None
    assert plan.next_step().prefills == (PrefillChunk(2, 5, 6, last=True),)


def test_kv_comes_back_from_the_shelf_and_where_it_cannot_the_prompt_is_computed() -> None:
    plan = planner(slots=1)
    plan.shelve("there", (1, 2, 3, 4, 5))
    plan.enqueue(1, [1, 2, 3, 4, 5, 6], 5, kv_from="there")
    assert plan.admit() == [Admission(1, slot=0, reused=5, source=None, restored="there")]
    plan.not_restored(1)
    assert plan.next_step().prefills == (PrefillChunk(1, 0, 4, last=False),)
    plan.release("there")
    assert plan.on_shelf("there") == ()


def test_two_tokens_are_worth_a_restore_and_one_is_not() -> None:
    plan = planner(slots=1, copy_threshold=16)
    pause(plan, 1, [1, 2, 3], "other")
    plan.release("other")
    plan.shelve("there", (1, 2, 3, 4, 5))
    plan.enqueue(2, [1, 2, 3, 4, 9], 5, kv_from="there")
    assert plan.admit() == [Admission(2, slot=0, reused=3, source=None)]
    plan.finish(2)
    plan.forget(0)
    plan.enqueue(3, [1, 2, 8], 5, kv_from="there")
    assert plan.admit() == [Admission(3, slot=0, reused=2, source=None, restored="there")]


def test_a_sequence_has_a_place_while_it_runs() -> None:
    plan = planner(slots=1)
    for identity in (1, 2):
        plan.enqueue(identity, [1, 2, 3, 4, 5], 5)
    assert plan.place(1) is None
    plan.admit()
    assert plan.place(1) == (0, ())
    compute(plan)
    assert plan.place(1) == (0, (1, 2, 3, 4))
    compute(plan)
    plan.decoded(1, 9)
    assert plan.place(1) == (0, (1, 2, 3, 4, 5, 9))
    assert plan.place(2) is None
    plan.finish(1)
    assert plan.place(1) is None


def test_a_key_that_is_held_again_is_held_once() -> None:
    plan = planner(slots=2)
    pause(plan, 1, [1, 2, 3], "key")
    pause(plan, 2, [8, 9], "key")
    held = plan.holding("key")
    assert held is not None
    assert held[1] == (8, 9)
    plan.release("key")
    assert plan.holding("key") is None


def test_sequences_that_go_on_share_a_step_and_a_long_prompt_keeps_its_chunks() -> None:
    plan = planner(slots=3, slot_tokens=40, chunk=4)
    for identity, prompt in ((1, [1]), (2, [2] * 9), (3, [3])):
        plan.enqueue(identity, prompt, 5)
    plan.admit()
    step = plan.next_step()
    assert step.prefills == (PrefillChunk(1, 0, 1, last=True), PrefillChunk(3, 0, 1, last=True))
    for chunk in step.prefills:
        plan.prefilled(chunk)
    assert plan.next_step().prefills == (PrefillChunk(2, 0, 4, last=False),)


def test_short_prompts_share_two_chunks_of_a_step_and_no_more() -> None:
    plan = planner(slots=4, slot_tokens=40, chunk=4)
    for identity in (1, 2, 3):
        plan.enqueue(identity, [identity] * 3, 5)
    plan.enqueue(4, [4] * 7, 5)
    plan.admit()
    step = compute(plan)
    assert [(chunk.sequence, chunk.stop) for chunk in step.prefills] == [(1, 3), (2, 3), (3, 2)]
    assert compute(plan).prefills == (PrefillChunk(3, 2, 3, last=True), PrefillChunk(4, 0, 7, last=True))


def test_prompts_that_fit_one_step_share_it_with_decoding() -> None:
    plan = planner(slots=4, slot_tokens=40, chunk=4)
    plan.enqueue(1, [1], 5)
    plan.admit()
    compute(plan)
    for identity in (2, 3):
        plan.enqueue(identity, [identity] * 4, 5)
    plan.admit()
    assert compute(plan) == Step((1,), (PrefillChunk(2, 0, 4, last=True), PrefillChunk(3, 0, 4, last=True)))


def compute(plan: Planner) -> Step:
    """Plans a step and computes its prompts."""
    step = plan.next_step()
    for chunk in step.prefills:
        plan.prefilled(chunk)
    return step


def test_decoding_waits_until_all_of_a_burst_have_begun() -> None:
    plan = planner(slots=6, slot_tokens=40, chunk=4)
    for identity in range(1, 7):
        plan.enqueue(identity, [identity] * 4, 5)
    plan.admit()
    assert compute(plan) == Step((), (PrefillChunk(1, 0, 4, last=True), PrefillChunk(2, 0, 4, last=True)))
    assert compute(plan) == Step((), (PrefillChunk(3, 0, 4, last=True), PrefillChunk(4, 0, 4, last=True)))
    assert compute(plan) == Step((), (PrefillChunk(5, 0, 4, last=True), PrefillChunk(6, 0, 4, last=True)))
    assert compute(plan) == Step((1, 2, 3, 4, 5, 6))


def test_decoding_waits_no_more_than_so_many_steps_in_a_row() -> None:
    plan = planner(slots=12, slot_tokens=40, chunk=4, prompt_steps=2)
    for identity in range(12):
        plan.enqueue(identity, [identity] * 4, 5)
    plan.admit()
    assert [bool(compute(plan).decode) for _ in range(6)] == [False, False, True, False, False, True]


def test_decoding_does_not_wait_for_a_long_prompts_chunks() -> None:
    plan = planner(slots=4, slot_tokens=60, chunk=4)
    plan.enqueue(1, [1], 5)
    plan.admit()
    compute(plan)
    for identity, length in ((2, 20), (3, 4), (4, 4)):
        plan.enqueue(identity, [identity] * length, 5)
    plan.admit()
    assert compute(plan) == Step((1,), (PrefillChunk(2, 0, 4, last=False),))
