"""The search column of items.

The previous release may still add items, which are found once they are changed.

Revision: 4b7f0d1c92ae, after 961ac46eb26c
"""

import unicodedata

import sqlalchemy as sa

from alembic import op

revision = "4b7f0d1c92ae"
down_revision = "961ac46eb26c"
branch_labels = None
depends_on = None

items = sa.table("items", sa.column("id", sa.Uuid()), sa.column("title", sa.String()), sa.column("search", sa.String()))


def fold(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().replace("i\u0307", "i")
    return unicodedata.normalize("NFKC", folded)


def upgrade() -> None:
    op.add_column("items", sa.Column("search", sa.String(), server_default=sa.text("''"), nullable=False))
    connection = op.get_bind()
    some = sa.select(items.c.id, items.c.title).order_by(items.c.id).limit(1000)
    change = sa.update(items).where(items.c.id == sa.bindparam("key")).values(search=sa.bindparam("folded"))
    while rows := connection.execute(some).all():
        connection.execute(change, [{"key": row.id, "folded": fold(row.title)} for row in rows])
        some = some.where(items.c.id > rows[-1].id)


def downgrade() -> None:
    with op.batch_alter_table("items") as table:
        table.drop_column("search")
