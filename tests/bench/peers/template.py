"""The shape of full-stack-fastapi-template: SQLModel, a sync Session in threads, a count query for each list."""

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import jwt
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm
from pwdlib import PasswordHash
from pydantic import EmailStr, ValidationError
from sqlalchemy import DateTime
from sqlmodel import Field, Relationship, Session, SQLModel, col, create_engine, func, select
from starlette.middleware.cors import CORSMiddleware

KEY = os.environ["SECRET_KEY"]
engine = create_engine(os.environ["DATABASE_URL"])
passwords = PasswordHash.recommended()


def now() -> datetime:
    return datetime.now(UTC)


class UserBase(SQLModel):
    email: EmailStr = Field(unique=True, index=True, max_length=255)
    is_active: bool = True
    is_superuser: bool = False
    full_name: str | None = Field(default=None, max_length=255)


class UserRegister(SQLModel):
    email: EmailStr = Field(max_length=255)
    password: str = Field(min_length=8, max_length=128)
    full_name: str | None = Field(default=None, max_length=255)


class User(UserBase, table=True):
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    hashed_password: str
    created_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))
    items: list["Item"] = Relationship(back_populates="owner", cascade_delete=True)


class UserPublic(UserBase):
    id: uuid.UUID
    created_at: datetime


class ItemBase(SQLModel):
    title: str = Field(min_length=1, max_length=255)
    description: str | None = Field(default=None, max_length=255)


class ItemUpdate(SQLModel):
    title: str | None = Field(default=None, min_length=1, max_length=255)
    description: str | None = Field(default=None, max_length=255)


class Item(ItemBase, table=True):
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    created_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))
    # The template has no index here. With it, code is compared with code.
    owner_id: uuid.UUID = Field(foreign_key="user.id", nullable=False, ondelete="CASCADE", index=True)
    owner: User | None = Relationship(back_populates="items")


class ItemPublic(ItemBase):
    id: uuid.UUID
    owner_id: uuid.UUID
    created_at: datetime


class ItemsPublic(SQLModel):
    data: list[ItemPublic]
    count: int


class Token(SQLModel):
    access_token: str
    token_type: str = "bearer"


class TokenPayload(SQLModel):
    sub: str | None = None


def get_db() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_db)]
TokenDep = Annotated[str, Depends(OAuth2PasswordBearer(tokenUrl="/api/v1/auth/login"))]


def get_current_user(session: SessionDep, token: TokenDep) -> User:
    try:
        payload = TokenPayload(**jwt.decode(token, KEY, algorithms=["HS256"]))
    except (jwt.InvalidTokenError, ValidationError):
        raise HTTPException(403, "Could not validate credentials") from None
    user = session.get(User, uuid.UUID(payload.sub))
    if not user:
        raise HTTPException(404, "User not found")
    if not user.is_active:
        raise HTTPException(400, "Inactive user")
    return user


CurrentUser = Annotated[User, Depends(get_current_user)]
auth, users, items = APIRouter(prefix="/auth"), APIRouter(prefix="/users"), APIRouter(prefix="/items")


def save(session: Session, row: Any) -> Any:
    session.add(row)
    session.commit()
    session.refresh(row)
    return row


def get_item(session: Session, user: User, item_id: uuid.UUID) -> Item:
    item = session.get(Item, item_id)
    if not item:
        raise HTTPException(404, "Item not found")
    if not user.is_superuser and item.owner_id != user.id:
        raise HTTPException(403, "Not enough permissions")
    return item


@auth.post("/login")
def login(session: SessionDep, form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> Token:
    user = session.exec(select(User).where(User.email == form.username)).first()
    if not user or not passwords.verify_and_update(form.password, user.hashed_password)[0]:
        raise HTTPException(400, "Incorrect email or password")
    claims = {"exp": now() + timedelta(days=8), "sub": str(user.id)}
    return Token(access_token=jwt.encode(claims, KEY, algorithm="HS256"))


@users.post("/", response_model=UserPublic)
def register_user(session: SessionDep, user_in: UserRegister) -> Any:
    if session.exec(select(User).where(User.email == user_in.email)).first():
        raise HTTPException(400, "The user with this email already exists in the system")
    hashed = passwords.hash(user_in.password)
    return save(session, User.model_validate(user_in, update={"hashed_password": hashed}))


@users.get("/me", response_model=UserPublic)
def read_user_me(current_user: CurrentUser) -> Any:
    return current_user


@items.get("/", response_model=ItemsPublic)
def read_items(session: SessionDep, current_user: CurrentUser, skip: int = 0, limit: int = 100) -> Any:
    mine = Item.owner_id == current_user.id
    count = session.exec(select(func.count()).select_from(Item).where(mine)).one()
    newest = select(Item).where(mine).order_by(col(Item.created_at).desc()).offset(skip).limit(limit)
    return ItemsPublic(data=[ItemPublic.model_validate(item) for item in session.exec(newest)], count=count)


@items.get("/{item_id}", response_model=ItemPublic)
def read_item(session: SessionDep, current_user: CurrentUser, item_id: uuid.UUID) -> Any:
    return get_item(session, current_user, item_id)


@items.post("/", response_model=ItemPublic)
def create_item(session: SessionDep, current_user: CurrentUser, item_in: ItemBase) -> Any:
    return save(session, Item.model_validate(item_in, update={"owner_id": current_user.id}))


@items.patch("/{item_id}", response_model=ItemPublic)
def update_item(session: SessionDep, current_user: CurrentUser, item_id: uuid.UUID, item_in: ItemUpdate) -> Any:
    item = get_item(session, current_user, item_id)
    item.sqlmodel_update(item_in.model_dump(exclude_unset=True))
    return save(session, item)


app = FastAPI()
app.add_middleware(
    CORSMiddleware,
    allow_origins=["http://localhost:5173"],
    allow_credentials=True,
    allow_methods=["*"],
    allow_headers=["*"],
)
router = APIRouter()
for each in (auth, users, items):
    router.include_router(each)
app.include_router(router, prefix="/api/v1")

if __name__ == "__main__":
    SQLModel.metadata.create_all(engine)
