"""Indexes for the sort orders of lists, and idempotency keys.

Revision: 0e4fd884b1a2, after 673feeb72236
"""

import sqlalchemy as sa

from alembic import op

revision = "0e4fd884b1a2"
down_revision = "673feeb72236"
branch_labels = None
depends_on = None

INDEXES = [
    *(("users", [key, "id"]) for key in ("created_at", "updated_at", "email")),
    *(("items", [key, "id"]) for key in ("created_at", "updated_at", "title")),
    *(("items", ["owner_id", key, "id"]) for key in ("created_at", "updated_at", "title")),
]


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_idempotency_keys_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"])
    for table, columns in INDEXES:
        op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, columns)
    op.drop_index(op.f("ix_items_owner_id_id"), "items")


def downgrade() -> None:
    op.create_index(op.f("ix_items_owner_id_id"), "items", ["owner_id", "id"])
    for table, columns in INDEXES:
        op.drop_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table)
    op.drop_table("idempotency_keys")
