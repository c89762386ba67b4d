import pytest

from tasks.report.numbers import fine_percent, interval, p_value, percent


@pytest.mark.parametrize(
    ("share", "shown", "fine"),
    [(None, "-", "-"), (0.0, "0.0", "0.0"), (0.0024, "0.2", "0.24"), (-0.0024, "-0.2", "-0.24"), (0.125, "12.5", "12.5")],
)
def test_a_share_is_in_percent_and_a_small_one_may_have_another_digit(share, shown, fine):
    assert (percent(share), fine_percent(share)) == (shown, fine)


def test_a_value_stands_beside_its_interval():
    assert interval(0.125, 0.091, 0.168) == "12.5 [9.1, 16.8]"
    assert interval(0.125, -0.001, 0.25, sign="+") == "+12.5 [-0.1, 25.0]"
    assert interval(0.125, 0.0, 1.0, 1, 2) == "0.12 [0.00, 1.00]"
    assert {interval(None, 0.0, 1.0), interval(0.5, None, 1.0), interval(0.5, 0.0, None)} == {"-"}


@pytest.mark.parametrize(("p", "shown"), [(None, "-"), (0.0, "<0.001"), (0.00099, "<0.001"), (0.001, "0.001"), (1.0, "1.000")])
def test_a_small_p_value_is_a_bound(p, shown):
    assert p_value(p) == shown
