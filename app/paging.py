"""Lists are answered page by page."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Page(BaseModel):
    """Which part of a list is wanted."""

    model_config = ConfigDict(extra="forbid")

    skip: Annotated[int, Field(ge=0, le=1_000_000, description="How many rows to leave out")] = 0
    limit: Annotated[int, Field(ge=1, le=100, description="How many rows to answer at most")] = 100
