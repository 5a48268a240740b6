"""csv: rows of numbers of one's own, to learn one column from the others."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dljobs.errors import DataError, UnknownName, UsageError
from dljobs.models.catalog import dataset
from dljobs.models.cells import cell_number
from dljobs.models.data import Data, Origin, TensorSplit
from dljobs.models.scaling import Scaling

from .given_path import given_path
from .splitting import check_share, stratified

MAX_CLASSES = 1000
MAX_SHARE = 0.5  # of the rows, as many different numbers can be classes


@dataset(
    "csv",
    summary="a table of your own: csv:PATH, one column learned from the others",
    source="your file",
    task="classification",
    shape=None,
    num_classes=None,
)
def csv_table(  # noqa: PLR0913 (each is an option for --set)
    root: Path,
    *,
    path: str = "",
    test: str = "",
    target: str = "",
    task: Literal["classification", "regression"] = "classification",
    header: Literal["auto", "yes", "no"] = "auto",
    ignore: str = "",
    delimiter: str = ",",
    split: float = 0.2,
    seed: int = 0,
) -> Data:
    """Each feature shifted and scaled to mean 0 and deviation 1, both measured on the training rows alone.

    So are values to learn: the loss is of scaled values, while mse, mae, fits and predictions are in the table's units.

    Args:
        path: the file, on every machine that trains, or its address: https://…/table.csv#sha256=…
        test: another file with the rows for tests, instead of those that are split off
        target: name or number (from 1) of the column to learn; the last one unless given
        task: classification (any text is a class) or regression (values, which are learned scaled like the features)
        header: whether the first line has names; auto: if no number is in it
        ignore: names or numbers of columns to leave out, with commas between them
        delimiter: what stands between cells; "tab" for a tabulator
        split: share of the rows for tests; 0 with a file of its own for them
        seed: of the split
    """
    if split or not test:
        check_share("csv", split)

    def read(text: str) -> Table:
        given = given_path("csv", text, root, is_folder=False)
        table = _read(given.path, header, "\t" if delimiter == "tab" else delimiter)
        return dataclasses.replace(table, origin=given.origin or Origin(text, _digest(given.path)))

    table = read(path)
    target_column = table.column(target) if target else len(table.names) - 1
    left_out = {table.column(name.strip()) for name in ignore.split(",") if name.strip()}
    if target_column in left_out:
        raise UsageError(f"column {table.names[target_column]!r} of {table.path} is both the target and ignored")
    features = [column for column in range(len(table.names)) if column != target_column and column not in left_out]
    if not features:
        raise DataError(f"{table.path} has no column besides the target {table.names[target_column]!r}")
    names = None if task == "regression" else table.classes(target_column)
    x, y = _samples(table, features, target_column, names)
    train, rest = _apart(table, y, names, split, seed)
    x_test, y_test = x[rest], y[rest]
    if test:
        x_test, y_test = _samples(read(test).like(table), features, target_column, names)
    x, y = x[train], y[train]
    if (y == y[0]).all():
        same = f"column {table.names[target_column]!r} holds nothing but {float(y[0]):g}"
        raise DataError(f"{table.path}: {same}: there is nothing to learn")
    scaling, values = Scaling.of(x), None if names else Scaling.of(y)
    return Data(
        TensorSplit(scaling(x), values(y) if values else y),
        TensorSplit(scaling(x_test), values(y_test) if values else y_test),
        sample_shape=(len(features),),
        num_classes=len(names) if names else None,
        class_names=names,
        task=task,
        from_raw=scaling,
        scaling=scaling,
        value_scaling=values,
        columns=tuple(table.names[column] for column in features) if table.has_names else None,
        target_column=table.names[target_column] if table.has_names else None,
        origin=table.origin,
    )


def _samples(table: Table, features: list[int], target: int, names: tuple[str, ...] | None) -> tuple[Tensor, Tensor]:
    """The rows as numbers, float64 [n, features], and their labels, int64 [n], or values, float64 [n, 1]."""
    x = torch.tensor(table.numbers(features, "leave such columns out: --set ignore=NAME"), dtype=torch.float64)
    if names is not None:
        return x, table.labels(target, names)
    return x, torch.tensor(table.numbers([target], "for classes: --set task=classification"), dtype=torch.float64)


def _apart(table: Table, y: Tensor, names: tuple[str, ...] | None, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """The rows for training and those for tests."""
    strata = torch.zeros(len(y), dtype=torch.int64) if names is None else y
    train, test = stratified(strata, len(names or " "), share, seed)
    if not len(train) or (share and not len(test)):
        raise DataError(f"{table.path} has {len(y)} rows: too few to split off {share:g} of them for tests")
    return train, test


@dataclass(frozen=True)
class Table:
    """The cells of a file, each row with the line it begins on."""

    path: Path
    names: list[str]
    rows: list[tuple[int, list[str]]]
    has_names: bool  # or they are numbers
    origin: Origin | None = None

    def column(self, word: str) -> int:
        """The column of that name or number.

        Raises:
            UnknownName: there is none.
        """
        if word in self.names:
            return self.names.index(word)
        if word.isascii() and word.isdigit() and 1 <= int(word) <= len(self.names):
            return int(word) - 1
        raise UnknownName(f"column of {self.path}:", word, self.names)

    def numbers(self, columns: list[int], hint: str) -> list[list[float]]:
        """These columns as numbers.

        Raises:
            DataError: a cell is none; the message holds file, line and column.
        """
        return [[self._number(line, cells, column, hint) for column in columns] for line, cells in self.rows]

    def like(self, other: Table) -> Table:
        """These rows with their columns in the order of the other table's.

        Raises:
            DataError: a column is not there.
        """
        if not (self.has_names and other.has_names):
            if len(self.names) != len(other.names):
                raise DataError(f"{self.path} has {len(self.names)} columns, and {other.path} {len(other.names)}")
            return Table(self.path, other.names, self.rows, other.has_names)
        missing = next((name for name in other.names if name not in self.names), None)
        if missing is not None:
            raise DataError(f"{self.path} has no column {missing!r}, which {other.path} has")
        places = [self.names.index(name) for name in other.names]
        rows = [(line, [cells[place] for place in places]) for line, cells in self.rows]
        return Table(self.path, other.names, rows, has_names=True)

    def classes(self, column: int) -> tuple[str, ...]:
        """The names of the classes, in order.

        Raises:
            DataError: an empty cell, only one class, or what must be values.
        """
        cells = [(line, row[column].strip()) for line, row in self.rows]
        what = f"column {self.names[column]!r}"
        empty = next((line for line, cell in cells if not cell), None)
        if empty is not None:
            raise DataError(f"{self.path}:{empty}: {what} is empty, and it is the class to learn")
        names = sorted({cell for _line, cell in cells}, key=_natural)
        if len(names) < 2:
            raise DataError(f"{self.path}: {what} holds nothing but {names[0]!r}: there is nothing to learn")
        # Of numbers that are classes, some come more than once.
        are_values = all(map(_is_number, names)) and len(names) > MAX_SHARE * len(cells)
        if len(names) > MAX_CLASSES or are_values or any(_is_fraction(name) for name in names):
            raise DataError(
                f"{self.path}: {what} holds {len(names)} different values such as {names[-1]!r}: these are no classes",
                hint="to learn values: --set task=regression",
            )
        return tuple(names)

    def labels(self, column: int, names: tuple[str, ...]) -> Tensor:
        """The number of each row's class, int64 [n].

        Raises:
            DataError: a class that is not among the names.
        """
        index = {name: number for number, name in enumerate(names)}
        for line, cells in self.rows:
            if (cell := cells[column].strip()) not in index:
                raise DataError(
                    f"{self.path}:{line}: the training rows have no class {cell[:40]!r}: {', '.join(names)}"
                )
        return torch.tensor([index[cells[column].strip()] for _line, cells in self.rows])

    def _number(self, line: int, cells: list[str], column: int, hint: str) -> float:
        value = cell_number(cells[column])
        if value is None:
            cell = cells[column].strip()
            wrong = f"{cell[:40]!r} in column {self.names[column]!r} is no number" if cell else ""
            raise DataError(f"{self.path}:{line}: {wrong or f'column {self.names[column]!r} is empty'}", hint)
        return value


def _read(path: Path, header: str, delimiter: str) -> Table:
    """Raises DataError: not text, not CSV, nothing in it, or a row of another length."""
    if len(delimiter) != 1:
        raise UsageError(f"option 'delimiter' of csv is one character, or tab, not {delimiter!r}")
    rows: list[tuple[int, list[str]]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            line = 1
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    rows.append((line, cells))
                line = reader.line_num + 1
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error
    if not rows:
        raise DataError(f"{path} is empty")
    first = rows[0][1]
    has_names = header == "yes" or (header == "auto" and not any(_is_number(cell) for cell in first))
    names = [cell.strip() for cell in first] if has_names else [str(number + 1) for number in range(len(first))]
    if twice := next((name for name, group in itertools.groupby(sorted(names)) if len(list(group)) > 1), None):
        raise DataError(f"{path}:{rows[0][0]}: two columns are called {twice!r}")
    table = Table(path, names, rows[1:] if has_names else rows, has_names)
    for line, cells in table.rows:
        if len(cells) != len(names):
            raise DataError(f"{path}:{line}: {len(cells)} cells, where the first line has {len(names)}")
    if not table.rows:
        raise DataError(f"{path} has a header and no rows")
    return table


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_fraction(cell: str) -> bool:
    return _is_number(cell) and not float(cell).is_integer()


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by their value, then words."""
    return (0, float(name), name) if _is_number(name) else (1, 0.0, name)
