"""The same three routes the usual way: a session per request from a dependency, an answer copied into its schema.

On SQLite with `def` endpoints in threads, on PostgreSQL with AsyncSession: what tutorials for each show.
"""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, Session, SQLModel, create_engine, select
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import Response

from app.items import Item, ItemCreate
from app.security import decode_token
from app.users import User

URL = os.environ["DATABASE_URL"]
KEY = os.environ["SECRET_KEY"]


class ItemOut(SQLModel):
    id: uuid.UUID
    title: str = Field(max_length=255)
    description: str | None = None
    owner_id: uuid.UUID


async def log_requests(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


app = FastAPI()
app.add_middleware(BaseHTTPMiddleware, dispatch=log_requests)
Token = Annotated[str, Depends(OAuth2PasswordBearer(tokenUrl="login"))]


def user_id(token: str) -> uuid.UUID:
    return decode_token(token, "access", keys=(KEY,), algorithm="HS256").sub


if URL.startswith("sqlite"):
    engine = create_engine(URL, connect_args={"check_same_thread": False})

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    Db = Annotated[Session, Depends(get_session)]

    def get_user(db: Db, token: Token) -> User:
        if user := db.get(User, user_id(token)):
            return user
        raise HTTPException(401)

    Me = Annotated[User, Depends(get_user)]

    @app.get("/api/v1/items/", response_model=list[ItemOut])
    def list_items(db: Db, user: Me, skip: int = 0, limit: int = 100) -> object:
        return db.exec(select(Item).where(Item.owner_id == user.id).offset(skip).limit(limit)).all()

    @app.get("/api/v1/items/{item_id}", response_model=ItemOut)
    def read_item(db: Db, user: Me, item_id: uuid.UUID) -> object:
        item = db.get(Item, item_id)
        if item is None or item.owner_id != user.id:
            raise HTTPException(404)
        return item

    @app.post("/api/v1/items/", response_model=ItemOut, status_code=201)
    def create_item(db: Db, user: Me, new: ItemCreate) -> object:
        item = Item.model_validate(new, update={"owner_id": user.id})
        db.add(item)
        db.commit()
        db.refresh(item)
        return item

else:
    async_engine = create_async_engine(URL.replace("postgresql://", "postgresql+asyncpg://"), pool_pre_ping=True)

    async def get_async_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_engine, expire_on_commit=False) as session:
            yield session

    AsyncDb = Annotated[AsyncSession, Depends(get_async_session)]

    async def get_async_user(db: AsyncDb, token: Token) -> User:
        if user := await db.get(User, user_id(token)):
            return user
        raise HTTPException(401)

    AsyncMe = Annotated[User, Depends(get_async_user)]

    @app.get("/api/v1/items/", response_model=list[ItemOut])
    async def list_items_async(db: AsyncDb, user: AsyncMe, skip: int = 0, limit: int = 100) -> object:
        return (await db.exec(select(Item).where(Item.owner_id == user.id).offset(skip).limit(limit))).all()

    @app.get("/api/v1/items/{item_id}", response_model=ItemOut)
    async def read_item_async(db: AsyncDb, user: AsyncMe, item_id: uuid.UUID) -> object:
        item = await db.get(Item, item_id)
        if item is None or item.owner_id != user.id:
            raise HTTPException(404)
        return item

    @app.post("/api/v1/items/", response_model=ItemOut, status_code=201)
    async def create_item_async(db: AsyncDb, user: AsyncMe, new: ItemCreate) -> object:
        item = Item.model_validate(new, update={"owner_id": user.id})
        db.add(item)
        await db.commit()
        await db.refresh(item)
        return item
