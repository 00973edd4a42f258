"""A test of a table reports all failing rows, and no others."""

import pytest

from tests.support.rows import each_row


@each_row([1, 2, 3, 4], label=lambda row: f"row {row}")
def of_which_two_fail(row):
    assert row % 2, "even"


def test_all_failing_rows_are_named():
    with pytest.raises(AssertionError, match=r"2 of 4 rows:\nrow 2: (.|\n)*even(.|\n)*row 4: "):
        of_which_two_fail()
    with pytest.raises(AssertionError, match="no rows"):
        each_row([])(lambda row: None)()
