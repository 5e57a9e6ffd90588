"""The address that is not verified yet.

Revision: 5d1b7c0e9a34, after 4b7f0d1c92ae
"""

import sqlalchemy as sa

from alembic import op

revision = "5d1b7c0e9a34"
down_revision = "4b7f0d1c92ae"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("pending_email", sa.String(254), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("users") as users:
        users.drop_column("pending_email")
