"""Quotients that are a share of something."""


def ratio(numerator: float, denominator: float) -> float | None:
    """`numerator / denominator`; None where the denominator is not positive, so that the quotient is no share of anything."""
    return float(numerator / denominator) if denominator > 0 else None
