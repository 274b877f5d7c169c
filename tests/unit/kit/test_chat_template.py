from datetime import UTC, datetime

import pytest

from aios_kit.chat_template import ChatTemplate, ChatTemplateError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_a_conversation_ends_where_the_assistant_begins() -> None:
    rendered = ChatTemplate(CHATML).render([{"role": "user", "content": "Hi"}])
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_the_generation_prompt_can_be_left_out() -> None:
    rendered = ChatTemplate(CHATML).render([{"role": "user", "content": "Hi"}], add_generation_prompt=False)
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n"


def test_a_template_can_refuse_a_conversation() -> None:
    template = ChatTemplate("{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}")
    with pytest.raises(ChatTemplateError, match=r"^user first$"):
        template.render([{"role": "system", "content": "x"}])


def test_a_template_that_is_no_jinja_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="does not compile"):
        ChatTemplate("{% for %}")


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ChatTemplateError, match="sandbox"):
        template.render([{"role": "user", "content": "x"}])


def test_a_template_cannot_change_the_conversation() -> None:
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(ChatTemplateError):
        ChatTemplate("{% do messages.append(1) %}").render(messages)
    with pytest.raises(ChatTemplateError):
        ChatTemplate("{{ messages.append(1) }}").render(messages)
    assert messages == [{"role": "user", "content": "x"}]


def test_a_conversation_the_template_fails_on_is_an_error_of_its_own() -> None:
    for source in ("{{ messages[5].role }}", "{{ 1 / 0 }}", "{{ messages + 'x' }}"):
        with pytest.raises(ChatTemplateError):
            ChatTemplate(source).render([{"role": "user", "content": "x"}])


def test_the_time_and_special_tokens_are_known() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ strftime_now('%Y-%m-%d') }}{{ eos_token }}",
        bos_token="<s>",
        eos_token="</s>",
        now=lambda: datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert template.render([]) == "<s>2026-01-02</s>"


def test_text_parts_become_one_text_and_others_are_refused() -> None:
    template = ChatTemplate(CHATML)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "user\nab<" in template.render([{"role": "user", "content": parts}])
    with pytest.raises(ChatTemplateError, match="'image_url' are not supported"):
        template.render([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_a_template_that_does_not_know_tools_gets_them_in_the_last_turn() -> None:
    template = ChatTemplate(CHATML)
    assert not template.uses_tools
    rendered = template.render([{"role": "user", "content": "Hi"}], [TOOL], tool_prompt="PROMPT")
    assert "Hi\n---\n" in rendered
    assert '"name": "f"' in rendered
    assert "PROMPT<|im_end|>" in rendered


def test_a_template_that_knows_tools_gets_them_as_they_are() -> None:
    template = ChatTemplate("{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ messages[-1].content }}")
    assert template.uses_tools
    rendered = template.render([{"role": "user", "content": "<é>"}], [TOOL], tool_prompt="PROMPT")
    assert rendered.startswith('{"type": "function", "function": {"name": "f"')
    assert rendered.endswith("<é>\n---\nPROMPT")


def test_calls_of_earlier_turns_reach_a_template_that_does_not_know_them() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert '"name": "f"' in ChatTemplate(CHATML).render([turn])
    knowing = ChatTemplate("{% for c in messages[0].tool_calls %}{{ c.function.name }}{% endfor %}")
    assert knowing.render([turn]) == "f"


def test_training_marks_are_rendered_through() -> None:
    template = ChatTemplate("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}")
    assert template.render([{"role": "assistant", "content": "x"}]) == "x"


def test_rendering_leaves_the_messages_as_they_are() -> None:
    messages = [{"role": "user", "content": None}]
    ChatTemplate(CHATML).render(messages, [TOOL])
    assert messages == [{"role": "user", "content": None}]
