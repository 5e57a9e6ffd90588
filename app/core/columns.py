"""Columns: a value is read as it was written, on both databases. Columns that cannot do this are refused."""

from decimal import Decimal
from typing import Any

from sqlalchemy import Column, Enum, Integer, Numeric, event
from sqlalchemy.orm import Mapper

DIGITS = 15
"""The maximum for a decimal: SQLite stores it as a float, which is exact up to this number of digits."""


def define(column: Column[Any], _table: object) -> None:
    """Store an enum as text with a check: a native type would remain after a downgrade and break the next upgrade."""
    kind = column.type
    if isinstance(kind, Enum) and kind.enum_class and kind.native_enum:
        Enum.__init__(
            kind,
            kind.enum_class,
            native_enum=False,
            create_constraint=True,
            values_callable=lambda values: [str(each.value) for each in values],
            name=column.name,
        )


def keep(mapper: Mapper[Any], model: Any) -> None:
    """Quantize decimals before they are written. Refuse columns that would round or overflow (TypeError)."""
    units: dict[str, Decimal] = {}
    for name, field in model.model_fields.items():
        column, place = mapper.columns[name], f"{model.__name__}.{name}"
        if isinstance(column.type, Numeric):
            if column.type.scale is None or (column.type.precision or DIGITS + 1) > DIGITS:
                raise TypeError(f"{place} needs Field(max_digits=10, decimal_places=2), with at most {DIGITS} digits")
            units[name] = Decimal(1).scaleb(-column.type.scale)
        elif type(column.type) is Integer and any(
            getattr(said, "le", 0) >= 2**31 or getattr(said, "lt", 0) > 2**31 for said in field.metadata
        ):
            raise TypeError(f"{place} has 32 bits, and its bounds need more: add Field(sa_type=BigInteger)")

    def to_scale(_mapper: object, _connection: object, row: Any) -> None:
        for name, unit in units.items():
            if (value := getattr(row, name)) is not None:
                setattr(row, name, value.quantize(unit) + 0)  # + 0 removes a negative zero

    if units:
        event.listen(mapper, "before_insert", to_scale)
        event.listen(mapper, "before_update", to_scale)
