"""Version 1: the one list of domains. Its URLs are the paths of these files."""

from fastapi import APIRouter

from app.api.v1 import auth, emails, items, users

DOMAINS = (auth, users, items, emails)

router = APIRouter()
for _domain in DOMAINS:
    _name = _domain.__name__.rpartition(".")[2]
    router.include_router(_domain.router, prefix=f"/{_name}", tags=[_name])
