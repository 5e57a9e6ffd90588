"""Import users with their password hashes: `python -m app.import_users FILE`, with one JSON object per line."""

import asyncio
import sys
from collections import Counter
from pathlib import Path

from pydantic import StrictBool, ValidationError
from sqlmodel import Field

from app import users
from app.config import Settings, get_settings
from app.core.db import Database
from app.core.fields import Input, Line
from app.core.security import Passwords
from app.users import VOID, EmailTaken, UserBase


class UserImport(UserBase, Input):
    """A user. Without a hash, the user has to request a new password."""

    hashed_password: Line = Field(default=VOID, max_length=255)
    is_active: StrictBool = True
    email_verified: StrictBool = False


async def import_user(database: Database, passwords: Passwords, line: str) -> str:
    """Add a user without sending a message. Returns "imported", "known", or the error in the line."""
    try:
        new = UserImport.model_validate_json(line)
        if new.hashed_password != VOID and not passwords.knows(new.hashed_password):
            return "hashed_password: Hash should be of a known kind and cost"
        await database.write(users.add, new, new.hashed_password, email_verified=new.email_verified)
    except EmailTaken:
        return "known"
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return "imported"


async def main(settings: Settings, path: Path) -> bool:
    """Import the users that are not known yet, and print the outcome of all other lines. Whether no line is invalid."""
    database, passwords = Database(settings.database_url), Passwords(slots=1, imported=settings.imported_hashes)
    outcomes: Counter[str] = Counter()
    with path.open(encoding="utf-8") as lines:  # blocking I/O: nothing else runs here
        for number, line in enumerate(lines, 1):
            outcome = await import_user(database, passwords, line)
            outcomes[outcome] += 1
            if outcome != "imported":
                print(f"line {number}: {outcome}")
    await database.close()
    print(f"{outcomes['imported']} imported, {outcomes['known']} known, of {outcomes.total()}")
    return outcomes.keys() <= {"imported", "known"}


if __name__ == "__main__":
    sys.exit(not asyncio.run(main(get_settings(), Path(sys.argv[1]))))
