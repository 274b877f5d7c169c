"""What a log says now: its turns in order, with summaries in the place of what they stand for."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from aios_context.core.record import Message, Record


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn.

    Attributes:
        number: its place in the log, from 0.
        version: with which it was written.
        message: fields of a `ChatMessage`.
        pinned: whether it stays in every window.
        summary_of: first and last turn it stands for.
    """

    number: int
    version: int
    message: Message
    pinned: bool = False
    summary_of: tuple[int, int] | None = None

    @property
    def kept(self) -> bool:
        """Whether no window and no summary may leave it out: system turns and pinned ones."""
        return self.pinned or (self.message["role"] == "system" and self.summary_of is None)


def all_turns(records: Iterable[Record]) -> list[Turn]:
    """All turns of a log, those that a summary stands for included."""
    turns: list[Turn] = []
    for record in records:
        if record.pins is not None:
            number, pinned = record.pins
            turns[number] = replace(turns[number], pinned=pinned)
        if record.message is not None:
            turns.append(Turn(len(turns), record.version, record.message, record.pinned, record.summary_of))
    return turns


def visible(turns: list[Turn]) -> list[Turn]:
    """The turns as they stand: a summary takes the place of the first turn it stands for.

    System and pinned turns in its range stay. A later summary also stands for an earlier one within its range.
    """
    replaced: set[int] = set()
    standing: dict[int, list[Turn]] = {}
    for summary in reversed(turns):
        if summary.summary_of is None or summary.number in replaced:
            continue
        first, last = summary.summary_of
        standing.setdefault(first, []).append(summary)
        replaced.add(summary.number)  # it does not stand at its own place
        for turn in turns[first : summary.number]:
            if turn.summary_of is not None:
                earlier_first, earlier_last = turn.summary_of
                if first <= earlier_first and earlier_last <= last and not turn.pinned:
                    replaced.add(turn.number)
            elif turn.number <= last and not turn.kept:
                replaced.add(turn.number)
    shown: list[Turn] = []
    for turn in turns:
        shown.extend(standing.get(turn.number, ()))
        if turn.number not in replaced:
            shown.append(turn)
    return shown
