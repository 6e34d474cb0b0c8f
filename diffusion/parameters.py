"""Tables of parameters: what their columns are, and whether they lie within their priors."""

import numpy as np

from runtime.errors import InputError
from runtime.priors import FloatArray, Parameter
from runtime.tables import Table


def as_rows(values: np.ndarray) -> FloatArray:
    """float64 array (n, n_columns) of one that may have one column and no axis for it."""
    return np.asarray(values, float).reshape(len(values), -1)


def check_columns(table: Table, columns: tuple[Parameter, ...]) -> None:
    """InputError unless a table has these columns, all of whose values lie inside the priors."""
    values, path = as_rows(table.values), table.path
    if values.shape[1] != len(columns):
        names = ", ".join(each.name for each in columns)
        raise InputError(
            f"{path}: has {values.shape[1]} columns; needed is one for each parameter: {names}"
        )
    for column, each in zip(values.T, columns, strict=True):
        if not each.contains(column):
            raise InputError(
                f"{path}: {each.name} takes values from {column.min():g} to {column.max():g}, "
                f"its prior is {each.low:g} to {each.high:g}; all must lie inside"
            )


def name_columns(table: Table, declared: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """Parameters in the columns of a table of training rows, checked.

    Args:
        table: Of parameters.
        declared: What the command line says that they are; may be empty where the record says it.
    """
    recorded = table.record.prior.parameters
    if declared and recorded and declared != recorded:
        own, other = (", ".join(map(str, each)) for each in (declared, recorded))
        raise InputError(f"{table.path}: its record says {other}, the command line {own}")
    columns = declared or recorded
    if not columns:
        raise InputError(
            f"{table.path}: nothing says what it holds; name each column with --param NAME MIN "
            "MAX, or r with --r-range MIN MAX"
        )
    check_columns(table, columns)
    for column, each in zip(as_rows(table.values).T, columns, strict=True):
        if len(column) > 1 and np.ptp(column) == 0:
            raise InputError(
                f"{table.path}: {each.name} is {column[0]:g} in each row, its prior is "
                f"{each.low:g} to {each.high:g}; draw it from its prior, or leave the column out"
            )
    return columns
