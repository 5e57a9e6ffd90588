"""The routes of the product, in the style of app/api/v1/__init__.py."""

from fastapi import APIRouter

from tests.product.api import hazards, lighthouses, sightings

DOMAINS = (hazards, lighthouses, sightings)

router = APIRouter()
for _domain in DOMAINS:
    _name = _domain.__name__.rpartition(".")[2]
    router.include_router(_domain.router, prefix=f"/{_name}", tags=[_name])
