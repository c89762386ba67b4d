"""Numbers as reports show them; '-' where there is none."""


def percent(share: float | None) -> str:
    """A share in percent, such as '12.5'."""
    return "-" if share is None else f"{100 * share:.1f}"


def fine_percent(share: float | None) -> str:
    """A share in percent, with another digit below 1%, such as '0.25'."""
    return percent(share) if share is None or share == 0 or abs(share) >= 0.01 else f"{100 * share:.2f}"


def interval(
    value: float | None, low: float | None, high: float | None, scale: float = 100, digits: int = 1, sign: str = ""
) -> str:
    """A value and its interval, such as '12.5 [9.1, 16.8]'; `sign` is '+' where the value is a difference."""
    if value is None or low is None or high is None:
        return "-"
    return f"{scale * value:{sign}.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def p_value(p: float | None) -> str:
    """A p-value, or one adjusted, such as '0.012'."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
