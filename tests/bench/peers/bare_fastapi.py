"""FastAPI alone: one route and no database. No service on FastAPI can be faster."""

from fastapi import FastAPI

app = FastAPI()
_ITEM = {
    "id": "01939e6a-0000-7000-8000-000000000000",
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "title": "Item 1",
    "description": "x" * 100,
    "owner_id": "01939e6a-0000-7000-8000-000000000001",
}


@app.get("/api/v1/sightings/{item_id}")
async def read_item(item_id: str) -> dict[str, str]:
    return _ITEM | {"id": item_id}
