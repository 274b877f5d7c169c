"""What all message models have in common: frozen, and closed against fields nobody knows."""

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """A request: unknown fields are refused, so that a misspelt one is named and not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Result(BaseModel):
    """A result: readers ignore fields they do not know, so that results can grow."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Empty(Body):
    """A request or result without fields."""
