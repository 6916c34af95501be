from __future__ import annotations

import pytest

from configs.training import LoopSettings
from copytrace.training.loop import rate_factor


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    settings = LoopSettings(warmup_epochs=1, epochs=3)
    factors = [rate_factor(step, settings, 4) for step in range(1, 13)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[5] == pytest.approx(0.5 + 0.5 * 2**-0.5)  # a quarter of the cosine's way
    assert factors[7] == pytest.approx(0.5)
    assert factors[11] == pytest.approx(0.0)
    assert factors[3:] == sorted(factors[3:], reverse=True)


@pytest.mark.parametrize(("warmup", "first"), [(0, 0.5 * (1 + 2**-0.5)), (8, 1 / 8)])
def test_a_warm_up_may_be_absent_or_longer_than_the_run(warmup: float, first: float) -> None:
    settings = LoopSettings(warmup_epochs=warmup, epochs=4)
    assert rate_factor(1, settings, 1) == pytest.approx(first)
