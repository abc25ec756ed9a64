"""Everything that is tabulated: pandas tables for the book, with masked and escaped text."""

import pandas as pd

from irlkit.rewards import mask
from irlkit.style import label


def texts(rows, columns, wide=("prompt", "completion")):
    """Texts of models and people as an HTML table: toxic words masked, everything escaped."""
    shown = rows[list(columns)].copy()
    for name in shown.columns.intersection([*wide, "text", "toxic", "neutral", "base", "expert"]):
        shown[name] = [mask(str(text)) for text in shown[name]]
    return shown.style.hide(axis="index").format(precision=2, escape="html").set_table_attributes('class="texts"')


def over_seeds(rows, metrics, index=("expert", "method"), cell=None):
    """Median [5th, 95th percentile] over seeds, or what `cell(values)` says: a row for each `index`, a column for each metric."""
    groups = rows[rows.metric.isin(metrics)].groupby([*index, "metric"], sort=False).value
    cells = groups.apply(cell or _cell).unstack("metric")[list(metrics)]
    table = cells.reset_index()
    for name in index:
        table[name] = table[name].map(label)
    return plain(table.rename(columns={m: label(m) for m in metrics}))


def _cell(values):
    if len(values) == 1:
        return _number(values.iloc[0])
    return f"{_number(values.median())} [{_number(values.quantile(0.05))}, {_number(values.quantile(0.95))}]"


def mean_and_range(values):
    """Mean [lowest, highest]: for a few seeds, of which percentiles would say nothing."""
    return _number(values.mean()) + (f" [{_number(values.min())}, {_number(values.max())}]" if len(values) > 1 else "")


def _number(value):
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def plain(table, precision=3):
    """A table without its index, numbers with `precision` digits, text escaped, none shown as a dash."""
    return (table.style.hide(axis="index").format(precision=precision, escape="html", na_rep="–", thousands=",")
            .set_table_attributes('class="numbers"'))


def word_shift(shift, count):
    """The `count` words that rise most and that fall most between base and expert, side by side; toxic ones masked."""
    sides = {"more often": shift.head(count), "less often": shift.tail(count).iloc[::-1]}
    columns = [column for name, rows in sides.items() for column in (
        pd.Series([mask(word) for word in rows.word], name=name), rows.z.reset_index(drop=True).rename(f"z ({name})"))]
    return plain(pd.concat(columns, axis=1), 1)
