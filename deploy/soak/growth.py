"""Does it grow? A line through the medians of blocks, and its 95 % interval.

Terms. The *window* is what comes after the warm-up. It is cut into BLOCKS of equally many parts; each block's median
stands for it, so that a fault, which lasts seconds, moves nothing, and what is left of one block hardly depends on the
one before. The *rise* is the line's slope times the length of the window.

A series is *flat* if the upper end of the rise's interval stays below what is accepted as noise: that there is no growth
has to be shown, a wide interval shows nothing. It *grows* if the lower end is above 0 and the rise above the noise.
Otherwise the run *cannot tell*.

Never here: where samples come from.
"""

from dataclasses import dataclass

import numpy as np

BLOCKS = 12
# Two-sided 95 % quantile of Student's t with BLOCKS - 2 degrees of freedom.
T_95 = 2.228
WARM_UP = 0.25
LEAST_IN_BLOCK = 5


@dataclass(frozen=True)
class Growth:
    """What became of one series. Rise in its unit over the window; slope the same for 100,000 parts."""

    name: str
    unit: str
    level: float  # median of the window
    slope: float
    slope_low: float
    slope_high: float
    rise: float
    rise_low: float
    rise_high: float
    second_quarter: float  # medians
    last_quarter: float
    accepted: float
    verdict: str  # flat, grows, cannot tell

    def line(self):
        """For people."""
        return (
            f"{self.name:<22} {self.level:>10.2f} {self.unit:<8} {self.slope:>+9.4f} "
            f"({self.slope_low:+.4f} to {self.slope_high:+.4f})  {self.rise:>+8.3f} ({self.rise_low:+.3f} to {self.rise_high:+.3f})"
            f"  {self.accepted:>7.2f}  {self.second_quarter:>8.2f} {self.last_quarter:>8.2f}  {self.verdict}"
        )


HEADER = (
    f"{'series':<22} {'level':>10} {'unit':<8} slope for 100,000 parts (95 %)  rise over the window (95 %)"
    "  accepted  2nd and last quarter"
)


def growth(name, unit, parts, values, accepted):
    """The test of one series. None where there are too few samples for it."""
    parts, values = np.asarray(parts, float), np.asarray(values, float)
    kept = np.isfinite(values)
    parts, values = parts[kept], values[kept]
    if len(parts) == 0:
        return None
    end = parts[-1]
    begin = WARM_UP * end
    edges = np.linspace(begin, end, BLOCKS + 1)
    at, middle = [], []
    for low, high in zip(edges, edges[1:]):
        inside = (parts > low) & (parts <= high)
        if inside.sum() < LEAST_IN_BLOCK:
            return None
        at.append(parts[inside].mean())
        middle.append(np.median(values[inside]))
    at, middle = np.array(at), np.array(middle)
    spread = at - at.mean()
    slope = (spread @ middle) / (spread @ spread)
    residual = middle - middle.mean() - slope * spread
    error = T_95 * np.sqrt((residual @ residual) / (BLOCKS - 2) / (spread @ spread))
    window = end - begin
    low, high = (slope - error) * window, (slope + error) * window
    rise = slope * window
    verdict = "flat" if high < accepted else "grows" if low > 0 and rise > accepted else "cannot tell"

    def median(of, to):
        return float(np.median(values[(parts > of * end) & (parts <= to * end)]))

    each = 1e5
    return Growth(
        name, unit, float(np.median(values[parts > begin])), slope * each, (slope - error) * each, (slope + error) * each,
        rise, low, high, median(0.25, 0.5), median(0.75, 1.0), accepted, verdict,
    )
