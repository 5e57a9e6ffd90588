"""Version 1: the list of all domains. URLs follow the names of these modules."""

from types import ModuleType

from fastapi import APIRouter

from app.api.v1 import auth, emails, items, jobs, users

DOMAINS = (auth, users, items, emails, jobs)


def tag(routes: ModuleType) -> dict[str, str]:
    """The tag of a module of routes, as the OpenAPI document describes it."""
    return {"name": routes.__name__.rpartition(".")[2], "description": routes.__doc__ or ""}


TAGS = [tag(domain) for domain in DOMAINS]
"""A further tag that routes have is added here, with its description."""

router = APIRouter()
for _domain in DOMAINS:
    _name = tag(_domain)["name"]
    router.include_router(_domain.router, prefix=f"/{_name}", tags=[_name])
