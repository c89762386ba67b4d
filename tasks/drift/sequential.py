"""Whether shares left their reference, asked every night: evidence that keeps to a budget of false alarms.

An e-detector (Shin, Ramdas and Rinaldo, arXiv 2203.03532, sections 2 and 3): the likelihood ratio of a change, summed over the
nights since which it may have begun. Each has a mean of at most 1 without a change, so that the sum reaches a threshold at most
once in that many nights, however much monitors depend on each other. A monitor of several shares averages over them.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.drift.mix_counts import DriftError, Floats, counted
from tasks.drift.share_evidence import ALTERNATIVES, EFFECT, WINDOW, Starts, null
from tasks.drift.share_evidence import Effect as Effect
from tasks.drift.share_reference import Bools, Ints, Reference, labels_of, reference, rows_of

MONTH = 30  # nights, which budgets are of
_CELLS = 2_000_000  # likelihood ratios that are held at a time


class Watch(NamedTuple):
    """What each night says: arrays are (nights, ...), `part` and `since` (nights, ..., series).

    `evidence` is the log of the summed likelihood ratio, 0 where it is under 1; `alarm`, that it reached `threshold`, after
    which it starts from none. `part` is each series' share of it, negative where it fell; `since`, the night from which on the
    series most likely changed, counted from 0, or -1 where it has had no data since the last alarm.
    """

    evidence: Floats
    alarm: Bools
    part: Floats
    since: Ints
    threshold: float


def threshold(budget: float, monitors: int = 1, looks: int = 1) -> float:
    """What evidence has to reach so that `monitors` together raise at most `budget` false alarms in 30 nights, on average.

    Histories of T nights then have an alarm with probability of at most budget x T / 30. `looks` is 1, but where the reference
    moves along: the number of nights since its end, as in `trailing`.
    """
    if not 0 < budget < np.inf or monitors < 1 or looks < 1:
        raise DriftError(f"a budget of {budget} for {monitors} monitors and {looks} looks: each is above 0")
    return MONTH * monitors * looks / budget


def watch(
    base: Reference,
    hits: npt.ArrayLike,
    sizes: npt.ArrayLike,
    threshold: float,
    strata: npt.ArrayLike | None = None,
    effect: Effect = EFFECT,
) -> Watch:
    """The evidence, night after night, that monitors' shares left their reference; arrays as those of `reference`.

    Nights without data (a size of 0, or NaN), or of a stratum that the reference has not, say nothing and change nothing.
    DriftError: other series than the reference's, or a threshold that is no number above 1.
    """
    x, n = counted(hits, sizes)
    if not len(x) or x.shape[1:] != base.phi.shape or not 1 < threshold < np.inf:
        came = f"{len(x)} nights of series {x.shape[1:]}, reference {base.phi.shape}, threshold {threshold}"
        raise DriftError(f"{came}: give a night or more, of the series that the reference has, and a threshold over 1")
    return _watched(base, x, n, threshold, strata, effect, restart=True)


def _watched(
    base: Reference, x: Floats, n: Floats, threshold: float, strata: npt.ArrayLike | None, effect: Effect, restart: bool
) -> Watch:
    rows, known = rows_of(base, len(x), strata)
    n = n * known.reshape(-1, *[1] * (n.ndim - 1))
    x, n = (values.reshape(len(values), -1, x.shape[-1]) for values in (np.where(n > 0, x, 0.0), n))
    step = max(1, _CELLS // (WINDOW * ALTERNATIVES * x.shape[-1]))
    some = [slice(i, i + step) for i in range(0, x.shape[1], step)]
    found = [_nights(_monitors(base, c), x[:, c], n[:, c], rows, threshold, effect, restart) for c in some]
    shape = (len(x), *base.phi.shape)
    evidence, alarm, part, since = (np.concatenate(values, axis=1) for values in zip(*found, strict=True))
    return Watch(evidence.reshape(shape[:-1]), alarm.reshape(shape[:-1]), part.reshape(shape), since.reshape(shape), threshold)


def _monitors(base: Reference, some: slice) -> Reference:
    """Some of the reference's monitors, in arrays with one axis for all of them."""
    strata, series = len(base.strata), base.phi.shape[-1]
    sums = (values.reshape(strata, -1, series)[:, some] for values in (base.hits, base.sizes))
    return Reference(base.strata, *sums, *(values.reshape(-1, series)[some] for values in (base.night, base.phi, base.df)))


def _nights(
    base: Reference, hits: Floats, sizes: Floats, rows: Ints, threshold: float, effect: Effect, restart: bool
) -> tuple[Floats, Bools, Floats, Ints]:
    starts = Starts(null(base, effect, threshold))
    nights = []
    for night in range(len(hits)):
        starts.add(night, hits[night], sizes[night], int(rows[night]))
        nights.append(_look(starts, min(night + 1, WINDOW), threshold))
        if restart:
            starts.begun[:, nights[-1][1]] = -1
    evidence, alarm, part, since = (np.stack(values) for values in zip(*nights, strict=True))
    return evidence, alarm, part, since


def _look(starts: Starts, slots: int, threshold: float) -> tuple[Floats, Bools, Floats, Ints]:
    logs = starts.logs(slots)
    terms = np.exp(logs).sum(axis=(0, 2))
    both, best = terms.sum(axis=0), logs.max(axis=(1, 2))
    whole = both.sum(axis=-1)
    total = whole / (ALTERNATIVES * logs.shape[-1])
    part = np.divide(both, whole[:, None], out=np.zeros_like(both), where=whole[:, None] > 0)
    begun = np.take_along_axis(starts.begun[:slots, :, None], best.argmax(axis=0)[None], axis=0)[0]
    since = np.where(np.isfinite(best.max(axis=0)), begun, -1)
    return np.log(np.maximum(total, 1.0)), total >= threshold, np.where(terms[0] >= terms[1], part, -part), since


def trailing(
    hits: npt.ArrayLike,
    sizes: npt.ArrayLike,
    threshold: float,
    strata: npt.ArrayLike | None = None,
    effect: Effect = EFFECT,
    length: int = 28,
    gap: int = 7,
) -> Watch:
    """`watch` against the `length` nights that end `gap` nights before each; nights without so many before them say nothing.

    Take `threshold(..., looks=gap)`: evidence is of the last `gap` nights alone, as earlier ones are in the reference, so that
    a change is seen while it is new, or never.
    """
    x, n = counted(hits, sizes)
    labels = labels_of(strata, len(x))
    shape = x.shape[:-1]
    found = Watch(np.zeros(shape), np.zeros(shape, np.bool_), np.zeros(x.shape), np.full(x.shape, -1), threshold)
    last = np.full(shape[1:], -1)
    for night in range(length + gap - 1, len(x)):
        first = night - gap + 1
        new, old = slice(first, night + 1), slice(first - length, first)
        fresh = np.arange(first, night + 1).reshape(-1, *[1] * last.ndim) > last
        base = reference(x[old], n[old], labels[old])
        seen = _watched(base, x[new], n[new] * fresh[..., None], threshold, labels[new], effect, restart=False)
        found.evidence[night], found.alarm[night], found.part[night] = seen.evidence[-1], seen.alarm[-1], seen.part[-1]
        found.since[night] = np.where(seen.since[-1] < 0, -1, seen.since[-1] + first)
        last = np.where(found.alarm[night], night, last)
    return found
