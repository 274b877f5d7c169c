"""How a conversation becomes one prompt: a model's own Jinja chat template, rendered in a sandbox.

The template comes from a model file, so it is not trusted: it runs in Jinja's immutable sandbox. The environment is
Hugging Face's (`transformers.utils.chat_template_utils`): `trim_blocks`, `lstrip_blocks`, loop controls, `tojson`
without HTML escapes, `raise_exception`, `strftime_now` and `{% generation %}` blocks. Tools are added as
text-generation-inference does (`router/src/infer/chat_template.rs`). The engine and the workers render with this one
class, so that a conversation has one prompt wherever it is rendered.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, object]
Tool = Mapping[str, object]

DEFAULT_TOOL_PROMPT = (
    "\nGiven the functions available, please respond with a JSON for a function call with its proper arguments that "
    "best answers the given prompt. Respond in the format {name: function name, parameters: dictionary of argument "
    "name and its value}.Do not use variables.\n"
)
"""What text-generation-inference adds to the last turn when tools are offered."""


class ChatTemplateError(ValueError):
    """A template that cannot be compiled, or a conversation it refuses; the message says which."""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's part for training; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


class ChatTemplate:
    """A compiled chat template; rendering is pure and may happen in several threads at once."""

    def __init__(
        self,
        source: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Compiles the template.

        Args:
            source: Jinja text, as in a GGUF's `tokenizer.chat_template` or a `tokenizer_config.json`.
            bos_token: text of the beginning-of-sequence token, for templates that write it.
            eos_token: text of the end-of-sequence token.
            now: what `strftime_now` tells the time by.

        Raises:
            ChatTemplateError: the source is not a valid template.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        try:
            self._template = environment.from_string(source)
            self._uses_tools = "tools" in find_undeclared_variables(environment.parse(source))
        except TemplateError as error:
            raise ChatTemplateError(f"the chat template does not compile: {error}") from error
        self._uses_tool_calls = "tool_calls" in source
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self.source = source

    @property
    def uses_tools(self) -> bool:
        """Whether the template itself says how tools are described to the model."""
        return self._uses_tools

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        *,
        add_generation_prompt: bool = True,
        tool_prompt: str = DEFAULT_TOOL_PROMPT,
    ) -> str:
        """The prompt of a conversation.

        Args:
            messages: turns with `role`, and `content` (text, or OpenAI's list of text parts) or `tool_calls`.
            tools: tools in OpenAI's form. A template that knows `tools` gets them; for any other, their JSON is
                added to the last turn.
            add_generation_prompt: whether the prompt ends where the assistant's turn begins.
            tool_prompt: added to the last turn when there are tools.

        Raises:
            ChatTemplateError: the template refuses the conversation (`raise_exception`), or fails on it.
        """
        turns = [self._turn(message) for message in messages]
        if tools and turns:
            described = "" if self._uses_tools else json.dumps(list(tools), ensure_ascii=False) + "\n"
            turns[-1]["content"] = f"{turns[-1]['content']}\n---\n{described}{tool_prompt}"
        try:
            return self._template.render(
                messages=turns, tools=tools or None, add_generation_prompt=add_generation_prompt, **self._tokens
            )
        except SecurityError as error:
            raise ChatTemplateError(f"the chat template leaves its sandbox: {error}") from error
        except TemplateError as error:
            raise ChatTemplateError(str(error)) from error
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            # What a template's own expressions raise on a conversation its author did not think of.
            raise ChatTemplateError(f"the chat template fails on this conversation: {error}") from error

    def _turn(self, message: Message) -> dict[str, object]:
        turn = dict(message)
        content = turn.get("content")
        if isinstance(content, Sequence) and not isinstance(content, str):
            content = "".join(_part_text(part) for part in content)
        if content is None:
            calls = turn.get("tool_calls")
            content = json.dumps(calls, ensure_ascii=False) if calls and not self._uses_tool_calls else ""
        turn["content"] = content
        return turn


def _part_text(part: object) -> str:
    if isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise ChatTemplateError(f"message parts of type {kind!r} are not supported, only text")
