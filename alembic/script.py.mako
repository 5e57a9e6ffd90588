<%!
import re


def tidy(commands):
    return re.sub("    # ###.*\n|# ###.*\n *", "", f"{commands}\n").rstrip() or "pass"
%>\
"""${message[:1].upper()}${message[1:].rstrip(".")}.

Revision: ${up_revision}, after ${down_revision or "nothing"}
"""

import sqlalchemy as sa

from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${tidy(upgrades)}


def downgrade() -> None:
    ${tidy(downgrades)}
