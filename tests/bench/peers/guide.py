"""The style of FastAPI guides in one file: sync Session from a dependency, CRUD functions, pydantic response models."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request, Response, status
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm
from pwdlib import PasswordHash
from pydantic import BaseModel, ConfigDict, EmailStr
from sqlalchemy import DateTime, ForeignKey, create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from starlette.middleware.base import RequestResponseEndpoint

logger = logging.getLogger(__name__)
KEY = os.environ["SECRET_KEY"]
engine = create_engine(os.environ["DATABASE_URL"], pool_size=5, pool_pre_ping=True)  # 10 more on demand
SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)
passwords = PasswordHash.recommended()


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True, index=True)
    email: Mapped[str] = mapped_column(unique=True, index=True)
    hashed_password: Mapped[str]
    full_name: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(default=True)
    is_superuser: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), onupdate=func.now())


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True, index=True)
    title: Mapped[str]
    description: Mapped[str | None]
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), onupdate=func.now())


class UserCreate(BaseModel):
    email: EmailStr
    full_name: str | None = None
    password: str


class UserResponse(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    email: EmailStr
    full_name: str | None = None
    is_active: bool
    created_at: datetime


class ItemCreate(BaseModel):
    title: str
    description: str | None = None


class ItemUpdate(BaseModel):
    title: str | None = None
    description: str | None = None


class ItemResponse(ItemCreate):
    model_config = ConfigDict(from_attributes=True)

    id: int
    owner_id: int
    created_at: datetime


class Token(BaseModel):
    access_token: str
    token_type: str


def get_db() -> Iterator[Session]:
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


Db = Annotated[Session, Depends(get_db)]


def get_current_user(
    db: Db, token: Annotated[str, Depends(OAuth2PasswordBearer(tokenUrl="/api/v1/auth/login"))]
) -> User:
    refused = HTTPException(
        status.HTTP_401_UNAUTHORIZED, "Could not validate credentials", {"WWW-Authenticate": "Bearer"}
    )
    try:
        user_id = int(jwt.decode(token, KEY, algorithms=["HS256"])["sub"])
    except (jwt.InvalidTokenError, KeyError, ValueError):
        raise refused from None
    user = db.query(User).filter(User.id == user_id).first()
    if user is None:
        raise refused
    return user


def get_current_active_user(user: Annotated[User, Depends(get_current_user)]) -> User:
    if not user.is_active:
        raise HTTPException(400, "Inactive user")
    return user


Me = Annotated[User, Depends(get_current_active_user)]

app = FastAPI()
app.add_middleware(
    CORSMiddleware,
    allow_origins=["http://localhost:3000"],
    allow_credentials=True,
    allow_methods=["*"],
    allow_headers=["*"],
)


@app.middleware("http")
async def log_requests(request: Request, call_next: RequestResponseEndpoint) -> Response:
    started = time.time()
    response = await call_next(request)
    seconds = time.time() - started
    logger.info(f"{request.method} {request.url.path} in {seconds:.3f}s status={response.status_code}")
    return response


def save(db: Session, row: Any) -> Any:
    db.add(row)
    db.commit()
    db.refresh(row)
    return row


def get_item(db: Session, user: User, item_id: int) -> Item:
    item = db.query(Item).filter(Item.id == item_id).first()
    if item is None or item.owner_id != user.id:
        raise HTTPException(404, "Resource not found")
    return item


@app.post("/api/v1/auth/login", response_model=Token)
def login(db: Db, form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> Any:
    user = db.query(User).filter(User.email == form.username).first()
    if not user or not passwords.verify(form.password, user.hashed_password):
        raise HTTPException(401, "Incorrect email or password", {"WWW-Authenticate": "Bearer"})
    claims = {"exp": datetime.now(UTC) + timedelta(minutes=30), "sub": str(user.id)}
    return {"access_token": jwt.encode(claims, KEY, algorithm="HS256"), "token_type": "bearer"}


@app.post("/api/v1/users/", response_model=UserResponse, status_code=201)
def create_user(db: Db, user_in: UserCreate) -> Any:
    if db.query(User).filter(User.email == user_in.email).first():
        raise HTTPException(400, "User with this email already exists.")
    hashed = passwords.hash(user_in.password)
    return save(db, User(email=user_in.email, full_name=user_in.full_name, hashed_password=hashed))


@app.get("/api/v1/users/me", response_model=UserResponse)
def read_user_me(user: Me) -> Any:
    return user


@app.get("/api/v1/items/", response_model=list[ItemResponse])
def read_items(db: Db, user: Me, skip: int = 0, limit: int = 100) -> Sequence[Item]:
    return db.query(Item).filter(Item.owner_id == user.id).offset(skip).limit(limit).all()


@app.post("/api/v1/items/", response_model=ItemResponse, status_code=201)
def create_item(db: Db, user: Me, item_in: ItemCreate) -> Any:
    return save(db, Item(**item_in.model_dump(), owner_id=user.id))


@app.get("/api/v1/items/{item_id}", response_model=ItemResponse)
def read_item(db: Db, user: Me, item_id: int) -> Any:
    return get_item(db, user, item_id)


@app.patch("/api/v1/items/{item_id}", response_model=ItemResponse)
def update_item(db: Db, user: Me, item_id: int, item_in: ItemUpdate) -> Any:
    item = get_item(db, user, item_id)
    for field, value in item_in.model_dump(exclude_unset=True).items():
        setattr(item, field, value)
    return save(db, item)


if __name__ == "__main__":
    Base.metadata.create_all(engine)
