"""Which turns go into a prompt of a given size.

System and pinned turns, the summary and the new turns always do. Of the others the newest are taken, and what is cut
off begins at the front: with `sliding` just as much as must be, so that the window holds all it can; with `truncate`
and `summarise` in steps of a quarter of the window, so that the prompt's beginning stays the same for many calls and
the engine finds it in its prefix cache. A turn of a tool is never parted from the call it answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aios_context.core.view import Turn
from aios_proto.errors import InvalidRequest
from aios_proto.messages.context import WindowPolicy

_STEPS = 4
_ROOM_FOR_USER_TURN = 0.5


@dataclass(frozen=True, slots=True)
class Sized:
    """A turn and its tokens, those of the chat template included."""

    turn: Turn
    tokens: int


@dataclass(frozen=True, slots=True)
class Window:
    """What goes into the prompt.

    Attributes:
        turns: of the context, in order.
        tokens: of the whole prompt.
        left_out: turns that did not fit.
        left_out_tokens: of these.
    """

    turns: tuple[Turn, ...]
    tokens: int
    left_out: int
    left_out_tokens: int


def plan(turns: Sequence[Sized], other_tokens: int, window_tokens: int, policy: WindowPolicy) -> Window:
    """Chooses the turns.

    Args:
        turns: as they stand, in order.
        other_tokens: of the new turns, and what the template adds once.
        window_tokens: most tokens of the prompt.
        policy: how much is cut off.

    Raises:
        InvalidRequest: what always goes into the prompt does not fit alone.
    """
    fixed = other_tokens + sum(sized.tokens for sized in turns if _stays(sized.turn))
    if fixed > window_tokens:
        raise InvalidRequest(
            f"the system, pinned and new turns alone have {fixed} tokens, the window has {window_tokens}",
            field="messages",
        )
    units = units_of(turns)
    loose = sum(unit_tokens(unit) for unit in units)
    cut = _cut(units, loose, window_tokens - fixed, window_tokens // _STEPS, policy)
    left_out = {sized.turn.number for unit in units[:cut] for sized in unit}
    left_out_tokens = sum(unit_tokens(unit) for unit in units[:cut])
    return Window(
        turns=tuple(sized.turn for sized in turns if sized.turn.number not in left_out),
        tokens=fixed + loose - left_out_tokens,
        left_out=len(left_out),
        left_out_tokens=left_out_tokens,
    )


def units_of(turns: Sequence[Sized]) -> list[list[Sized]]:
    """The turns that may be left out, in the smallest groups that make sense alone: a turn and its tools' answers."""
    units: list[list[Sized]] = []
    for sized in turns:
        if _stays(sized.turn):
            continue
        if units and sized.turn.message["role"] == "tool":
            units[-1].append(sized)
        else:
            units.append([sized])
    return units


def unit_tokens(unit: Sequence[Sized]) -> int:
    """Tokens of one group."""
    return sum(sized.tokens for sized in unit)


def begins_with_user(unit: Sequence[Sized]) -> bool:
    """Whether a window may begin here for every chat template: many want a turn of the user first."""
    return unit[0].turn.message["role"] == "user"


def _stays(turn: Turn) -> bool:
    return turn.kept or turn.summary_of is not None


def _cut(units: Sequence[Sequence[Sized]], loose: int, room: int, step: int, policy: WindowPolicy) -> int:
    """How many groups are cut off at the front."""
    over = loose - room
    if over <= 0:
        return 0
    least = _first_with(units, over)
    stepped = least if policy == "sliding" else _first_with(units, -(-over // max(1, step)) * step)
    cut = stepped if stepped < len(units) else least
    left = loose - sum(unit_tokens(unit) for unit in units[:cut])
    for later in range(cut, len(units)):
        if begins_with_user(units[later]):
            return later
        left -= unit_tokens(units[later])
        if left < room * _ROOM_FOR_USER_TURN:
            break
    return cut


def _first_with(units: Sequence[Sequence[Sized]], tokens: int) -> int:
    """How many groups from the front have at least so many tokens together."""
    total = 0
    for number, unit in enumerate(units):
        if total >= tokens:
            return number
        total += unit_tokens(unit)
    return len(units)
