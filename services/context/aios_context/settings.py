"""What the context manager can be told from outside."""

from pydantic import Field

from aios_kit.settings import ServiceSettings

_MONTH_S = 30 * 24 * 3600


class ContextSettings(ServiceSettings):
    """Settings of the context manager, `AIOS_CONTEXT_*`, beside those all services share."""

    context_max_bytes: int = Field(16 << 20, ge=1 << 10, description="bytes one context's log may have")
    context_max_turns: int = Field(20_000, ge=1, description="turns one context's log may have")
    context_per_agent: int = Field(1000, ge=1, description="contexts one agent may have")
    context_snapshots_per_agent: int = Field(1000, ge=1, description="snapshots one agent may have")
    context_ttl_s: float = Field(
        _MONTH_S, gt=0, description="seconds a context that names no time is kept after its last change"
    )
    context_snapshot_ttl_s: float = Field(_MONTH_S, gt=0, description="seconds a snapshot that names no time is kept")
    context_summary_at: float = Field(
        0.75, gt=0, le=1, description="share of the window at which the policy `summarise` begins a summary"
    )
    context_summary_target: float = Field(
        0.5, gt=0, lt=1, description="share of the window that is left filled by a summary of the policy `summarise`"
    )
    context_remind_after_tokens: int = Field(
        512, ge=0, description="tokens behind a pinned turn from which on it is said again before the new turns"
    )
    context_reminder_tokens: int = Field(
        512, ge=0, description="most tokens of pinned turns that are said again; 0 repeats none"
    )
    context_tokenise_deadline_s: float = Field(30, gt=0, description="longest wait for the counts of a batch of texts")
    context_summary_deadline_s: float = Field(600, gt=0, description="longest wait for one call of a summary")
    context_summaries_at_once: int = Field(4, ge=1, description="summaries of the policy `summarise` made at once")
    context_cache_bytes: int = Field(64 << 20, ge=0, description="bytes of contexts' logs kept in memory")
    context_sweep_s: float = Field(600, gt=0, description="seconds between looks for what has expired")
    context_sweep_grace_s: float = Field(
        3600, gt=0, description="seconds for which what nothing refers to any more is still kept"
    )
