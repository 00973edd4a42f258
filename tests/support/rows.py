"""One test per property of a table, reporting every row that fails."""

import traceback
from collections.abc import Callable, Iterable

import pytest


def each_row(rows: Iterable, label: Callable = str) -> Callable:
    """Turns a test of one row into a single test of all rows, without arguments.

    Args:
      rows: arguments of the test; of a mapping, the keys.
      label: returns the name of a row in failure messages.
    """

    def decorate(test):
        def of_all_rows():
            count, failed = 0, []
            for row in rows:
                count += 1
                try:
                    test(row)
                except (Exception, pytest.fail.Exception):
                    failed.append(f"{label(row)}: {traceback.format_exc(limit=-2)}")
            assert count, "no rows"
            assert not failed, f"{len(failed)} of {count} rows:\n" + "\n".join(failed)

        of_all_rows.__name__ = of_all_rows.__qualname__ = test.__name__
        of_all_rows.__doc__, of_all_rows.__module__ = test.__doc__, test.__module__
        return of_all_rows

    return decorate
