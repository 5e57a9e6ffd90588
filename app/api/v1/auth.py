"""Log in."""

from typing import Annotated

from fastapi import APIRouter, Form

from app import auth
from app.api.deps import AppSettings, Db, PasswordService
from app.api.errors import problems
from app.auth import InactiveUser, IncorrectLogin, LoginForm, Token

router = APIRouter()


@router.post("/login", responses=problems(IncorrectLogin, InactiveUser))
async def login(db: Db, passwords: PasswordService, settings: AppSettings, form: Annotated[LoginForm, Form()]) -> Token:
    """Exchange an email and a password for an access token (OAuth2 password grant)."""
    return await auth.login(db, passwords, settings, form)
