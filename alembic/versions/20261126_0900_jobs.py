"""Jobs, and one for each queued message.

Revision: 8a3e5f1b6c20, after 5d1b7c0e9a34
"""

import sqlalchemy as sa

from alembic import op

revision = "8a3e5f1b6c20"
down_revision = "5d1b7c0e9a34"
branch_labels = None
depends_on = None

SAME = ("id", "created_at", "updated_at", "attempts", "due_at", "last_error")


def upgrade() -> None:
    jobs = op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("status", sa.String(7), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("occurrence", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.String(255), nullable=True),
        sa.Column("arguments", sa.JSON(), nullable=True),
        sa.Column("key", sa.String(255), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("name", "key", name=op.f("uq_jobs_name_key")),
        sa.UniqueConstraint("name", "occurrence", name=op.f("uq_jobs_name_occurrence")),
    )
    op.create_index(op.f("ix_jobs_status_priority_id"), "jobs", ["status", "priority", "id"])
    op.create_index(op.f("ix_jobs_status_due_at"), "jobs", ["status", "due_at"])
    op.create_index(op.f("ix_jobs_created_at_id"), "jobs", ["created_at", "id"])
    emails = sa.table("emails", *map(sa.column, ("status", *SAME)))
    build = sa.func.json_build_object if op.get_bind().dialect.name == "postgresql" else sa.func.json_object
    # "waiting", because a sender of the release before may be about to send it; its lease is in due_at.
    values = {"name": "'send_email'", "status": "'waiting'", "priority": "0"}
    queued = sa.select(
        *(emails.c[name] for name in SAME),
        *map(sa.literal_column, values.values()),
        build(sa.literal_column("'email_id'"), emails.c.id),
    ).where(emails.c.status == "queued")
    op.execute(jobs.insert().from_select([*SAME, *values, "arguments"], queued))
    op.drop_index(op.f("ix_emails_status_due_at"), "emails")


def downgrade() -> None:
    op.create_index(op.f("ix_emails_status_due_at"), "emails", ["status", "due_at"])
    op.drop_table("jobs")
