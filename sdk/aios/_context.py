"""Conversations kept by the kernel: `agent.contexts`."""

from collections.abc import Callable, Mapping
from typing import Unpack

from pydantic import JsonValue

from aios._call import Call
from aios._exchange import Exchange
from aios._llm import LLM, GenerationOptions, Messages
from aios._reply import ChatReply, result_of
from aios._request import CallOptions
from aios_proto.frames import Done
from aios_proto.messages.context import (
    CompressResult,
    ContextInfo,
    ContextListResult,
    ContextResult,
    SnapshotInfo,
    WindowPolicy,
    WindowResult,
)
from aios_proto.messages.llm import ChatMessage

Turns = Messages

_info = result_of(ContextInfo)
_list = result_of(ContextListResult)
_get = result_of(ContextResult)
_compress = result_of(CompressResult)
_snapshot = result_of(SnapshotInfo)
_window = result_of(WindowResult)


class Context:
    """One conversation, by its name; several processes may hold it.

    Attributes:
        name: its name among the agent's own.
    """

    def __init__(self, exchange: Exchange, name: str) -> None:
        self._exchange = exchange
        self.name = name

    def __repr__(self) -> str:
        return f"<Context {self.name}>"

    def chat(self, messages: Messages, **options: Unpack[GenerationOptions]) -> Call[ChatReply]:
        """Asks for the assistant's next turn after this conversation and `messages`.

        When the call is done the new turns and the answer are part of the conversation; a call that fails leaves it
        as it was. Calls side by side see it as it was when they began: use `after` for an order.

        Args:
            messages: the new turns; a text is one turn of the user.
            **options: see `GenerationOptions`.
        """
        options["context"] = self.name
        return LLM(self._exchange).chat(messages, **options)

    def append(
        self,
        messages: Turns,
        *,
        pinned: bool = False,
        expect_version: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Call[ContextInfo]:
        """Adds turns at the end.

        Args:
            messages: a text is one turn of the user.
            pinned: whether they stay in every window.
            expect_version: refuse unless this is the conversation's version.
            **options: see `CallOptions`.
        """
        body = {
            "context": self.name,
            "messages": turns(messages),
            "pinned": pinned,
            "expect_version": expect_version,
        }
        return self._exchange.call("context", "append", body, _info, options, check=True)

    def get(
        self, *, at_version: int | None = None, full: bool = False, skip: int = 0, **options: Unpack[CallOptions]
    ) -> Call[ContextResult]:
        """Reads the turns: those that stand, with summaries in the place of what they stand for.

        Args:
            at_version: as they stood at an earlier version.
            full: all that were ever written.
            skip: leave out so many; where `next_skip` of a result is not None, the rest is asked for with it.
            **options: see `CallOptions`.
        """
        body = {"context": self.name, "at_version": at_version, "full": full, "skip": skip}
        return self._exchange.call("context", "get", body, _get, options, check=True)

    def window(
        self, messages: Turns = (), *, max_tokens: int | None = None, **options: Unpack[CallOptions]
    ) -> Call[WindowResult]:
        """Asks what a model call on this conversation would send.

        Args:
            messages: new turns that would follow.
            max_tokens: of the prompt; by default the conversation's window.
            **options: see `CallOptions`.
        """
        body = {"context": self.name, "messages": turns(messages), "max_tokens": max_tokens}
        return self._exchange.call("context", "window", body, _window, options, check=True)

    def pin(self, turn: int, *, pinned: bool = True, **options: Unpack[CallOptions]) -> Call[ContextInfo]:
        """Keeps a turn, by its number, in every window, or no longer."""
        body = {"context": self.name, "turn": turn, "pinned": pinned}
        return self._exchange.call("context", "pin", body, _info, options, check=True)

    def grant(self, agent: str, *, revoke: bool = False, **options: Unpack[CallOptions]) -> Call[ContextInfo]:
        """Lets another agent of the tenant read and fork this conversation, or no longer."""
        body = {"context": self.name, "agent": agent, "revoke": revoke}
        return self._exchange.call("context", "grant", body, _info, options, check=True)

    def fork(
        self, name: str | None = None, *, at_version: int | None = None, **options: Unpack[CallOptions]
    ) -> "Call[Context]":
        """Makes a conversation of its own that shares the past of this one.

        Args:
            name: of the fork; by default the kernel chooses.
            at_version: where the shared past ends.
            **options: see `CallOptions`.
        """
        body = {"context": self.name, "fork": name, "at_version": at_version}
        return self._exchange.call("context", "fork", body, _opened(self._exchange), options, check=True)

    def snapshot(self, *, ttl_s: float | None = None, **options: Unpack[CallOptions]) -> Call[SnapshotInfo]:
        """Keeps the conversation as it is now, for `ttl_s` seconds."""
        body = {"context": self.name, "ttl_s": ttl_s}
        return self._exchange.call("context", "snapshot", body, _snapshot, options, check=True)

    def restore(self, snapshot: SnapshotInfo | str, **options: Unpack[CallOptions]) -> Call[ContextInfo]:
        """Takes this conversation back to what a snapshot has."""
        body = {"snapshot": _snapshot_id(snapshot), "context": self.name}
        return self._exchange.call("context", "restore", body, _info, options, check=True)

    def compress(
        self, target_tokens: int, *, model: str | None = None, **options: Unpack[CallOptions]
    ) -> Call[CompressResult]:
        """Has a model summarise the oldest turns until the conversation has `target_tokens` tokens at most.

        System and pinned turns stay. The model calls are made at the lowest priority: give it a `deadline_s` to match.

        Args:
            target_tokens: of the prompt.
            model: who counts and summarises; by default the conversation's own.
            **options: see `CallOptions`.
        """
        body = {"context": self.name, "target_tokens": target_tokens, "model": model}
        return self._exchange.call("context", "compress", body, _compress, options, check=True)

    def close(self, **options: Unpack[CallOptions]) -> Call[ContextInfo]:
        """Removes the conversation. Its forks and snapshots stay."""
        return self._exchange.call("context", "close", {"context": self.name}, _info, options, check=True)


class Contexts:
    """The conversations of one agent."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def open(
        self,
        name: str | None = None,
        *,
        messages: Turns = (),
        pinned: bool = False,
        policy: WindowPolicy = "truncate",
        window_tokens: int | None = None,
        model: str | None = None,
        ttl_s: float | None = None,
        **options: Unpack[CallOptions],
    ) -> Call[Context]:
        """Makes a new conversation.

        Args:
            name: by default the kernel chooses one.
            messages: with which it begins; a text is one turn of the user.
            pinned: whether these stay in every window.
            policy: what becomes of turns that do not fit the window: `truncate`, `sliding` or `summarise`.
            window_tokens: most tokens of a prompt; by default what the model takes.
            model: whose tokens are counted; by default the pool's.
            ttl_s: seconds it is kept after its last change.
            **options: see `CallOptions`.

        Raises:
            InvalidRequest: an argument is wrong; `field` names it.
        """
        body = {
            "context": name,
            "messages": turns(messages),
            "pinned": pinned,
            "policy": policy,
            "window_tokens": window_tokens,
            "model": model,
            "ttl_s": ttl_s,
        }
        return self._exchange.call("context", "open", body, _opened(self._exchange), options, check=True)

    def use(self, name: str) -> Context:
        """A conversation that was opened before; asks nobody."""
        return Context(self._exchange, name)

    def list(self, **options: Unpack[CallOptions]) -> Call[ContextListResult]:
        """Asks for the agent's own conversations and snapshots."""
        return self._exchange.call("context", "list", None, _list, options)

    def read(
        self, owner: str, name: str, *, full: bool = False, skip: int = 0, **options: Unpack[CallOptions]
    ) -> Call[ContextResult]:
        """Reads another agent's conversation, which that agent has granted; see `Context.get`."""
        body = {"context": name, "owner": owner, "full": full, "skip": skip}
        return self._exchange.call("context", "get", body, _get, options, check=True)

    def fork(self, owner: str, name: str, fork: str | None = None, **options: Unpack[CallOptions]) -> Call[Context]:
        """Makes an own conversation of another agent's, which that agent has granted; see `Context.fork`."""
        body = {"context": name, "owner": owner, "fork": fork}
        return self._exchange.call("context", "fork", body, _opened(self._exchange), options, check=True)

    def restore(
        self, snapshot: SnapshotInfo | str, name: str | None = None, **options: Unpack[CallOptions]
    ) -> Call[Context]:
        """Makes a conversation as a snapshot has it; one of that name is taken back to it."""
        body = {"snapshot": _snapshot_id(snapshot), "context": name}
        return self._exchange.call("context", "restore", body, _opened(self._exchange), options, check=True)

    def discard(self, snapshot: SnapshotInfo | str, **options: Unpack[CallOptions]) -> Call[SnapshotInfo]:
        """Removes a snapshot."""
        body = {"snapshot": _snapshot_id(snapshot)}
        return self._exchange.call("context", "discard", body, _snapshot, options, check=True)


def turns(messages: Turns) -> list[ChatMessage | Mapping[str, JsonValue]]:
    """Turns as they are sent: a text is one turn of the user."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else [*messages]


def _opened(exchange: Exchange) -> Callable[[Done, str | None], Context]:
    return lambda done, trace_id: Context(exchange, _info(done, trace_id).context)


def _snapshot_id(snapshot: SnapshotInfo | str) -> str:
    return snapshot if isinstance(snapshot, str) else snapshot.snapshot
