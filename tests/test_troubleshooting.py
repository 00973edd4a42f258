"""The troubleshooting page matches the output of segjax."""

from benchmarks import troubleshooting


def test_the_page_is_what_the_mistakes_give():
    expected = troubleshooting.page()
    found = troubleshooting.PAGE.read_text(encoding="utf-8")
    assert found == expected, "run `python -m benchmarks.troubleshooting`"
