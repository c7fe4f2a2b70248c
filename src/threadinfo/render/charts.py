"""Charts of the page as inline SVG: horizontal places are percentages, so that a chart is as wide as its room.

Text is never scaled and nothing needs a script. What comes from the target goes through `Markup.format`, which escapes
it, after `format_text`. The words of a chart are its <title>s; the numbers stand beside it in the same row as text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec
from markupsafe import Markup

from threadinfo.model import DescriptorTrace, Latency
from threadinfo.render.escape import format_text
from threadinfo.render.text.duration import format_duration as format_duration_text

_RECT = Markup('<rect class="{}" x="{}%" width="{}%" height="100%">{}</rect>')
_CELL = Markup('<rect class="cell" x="{}%" width="{}%" height="100%" fill-opacity="{}">{}</rect>')
_TITLE = Markup("<title>{}</title>")
_BAR = Markup('<svg class="bar" aria-hidden="true">{}</svg>')
_LEAST_PERCENT = 0.05  # narrower would not be seen
_LEAST_COLUMN, _MOST_COLUMNS = 0.1, 1000  # of an interval; a trace has far fewer
_CHURN_TICKS = 5
_DECADES = 13  # from 1 ns to 1000 s


def format_duration(ns: float | None) -> str:
    """As people set it: ``4.10 µs``."""
    words = format_duration_text(ns)
    number = words.rstrip("nums")
    return f"{number} {words[len(number) :].replace('u', 'µ')}" if number != words else words


class Part(msgspec.Struct, frozen=True):
    """A part of a bar."""

    kind: str
    """The name of its colour in the style sheet."""
    share: float
    """Of the whole bar: 0 to 1."""
    words: str = ""


def bar(parts: Iterable[Part]) -> Markup:
    """Parts side by side, from the left."""
    drawn, left = [], 0.0
    for part in parts:
        width = 100 * min(max(part.share, 0.0), 1.0)
        if width >= _LEAST_PERCENT:
            title = _TITLE.format(format_text(part.words)) if part.words else ""
            drawn.append(_RECT.format(part.kind, _number(left), _number(width), title))
        left += width
    return _BAR.format(Markup("").join(drawn))


class TimeAxis(msgspec.Struct, frozen=True):
    """A logarithmic axis of times, from one power of two to another."""

    low: int
    high: int

    def place(self, ns: float) -> float:
        """In percent from the left."""
        low, high = math.log2(self.low), math.log2(self.high)
        return min(max(100 * (math.log2(max(ns, 1)) - low) / (high - low), 0.0), 100.0)


def time_axis(latencies: Iterable[Latency]) -> TimeAxis | None:
    """An axis on which all of them have room; None where nothing was counted."""
    ends = [ns for latency in latencies if latency.count for ns in (latency.p50, latency.max, *(latency.octaves or ()))]
    known = [ns for ns in ends if ns is not None]
    if not known:
        return None
    low = 1 << max((max(min(known), 1) - 1).bit_length() - 1, 0)
    high = 1 << (max(known) - 1).bit_length() if max(known) > 1 else 2
    return TimeAxis(low, max(high, low << 3))


def axis_labels(axis: TimeAxis) -> Markup:
    """The decades of the axis, to stand above its charts."""
    label = Markup('<text x="{}%" y="11" text-anchor="{}"{}>{}</text>')
    drawn = []
    for power in range(_DECADES):
        if axis.low <= 10**power <= axis.high:
            place = axis.place(10**power)
            anchor = "end" if place > 95 else "start" if place < 5 else "middle"
            between = Markup(' class="between"') if power % 2 else ""
            drawn.append(label.format(_number(place), anchor, between, _decade(power)))
    return Markup('<svg class="axis" aria-hidden="true">{}</svg>').format(Markup("").join(drawn))


def _decade(power: int) -> str:
    """``10 µs`` for 4."""
    size, unit = ((9, "s"), (6, "ms"), (3, "µs"), (0, "ns"))[3 - min(power // 3, 3)]
    return f"{10 ** (power - size)} {unit}"


def waits(latency: Latency, axis: TimeAxis, most: int) -> Markup:
    """One row of the heat map: a cell an octave, the darker the more of `most` waits; marks at p50, p99 and max.

    Without octaves, in reports of older versions, a line from p50 to p99 stands for the cells.
    """
    if not latency.count or latency.p50 is None or latency.p99 is None or latency.max is None:
        return _BAR.format("")
    drawn = []
    for end, count in sorted((latency.octaves or {}).items()):
        left, right = axis.place(end / 2), axis.place(end)
        shade = 0.12 + 0.88 * math.log1p(count) / math.log1p(max(most, count, 1))
        words = f"{count:,} of {format_duration(end / 2)} to {format_duration(end)}"
        drawn.append(_CELL.format(_number(left), _number(right - left), f"{shade:.2f}", _TITLE.format(words)))
    if not latency.octaves:
        left, right = axis.place(latency.p50), axis.place(latency.p99)
        drawn.append(_CELL.format(_number(left), _number(max(right - left, 0.5)), "0.4", _TITLE.format("p50 to p99")))
    mark = Markup('<line class="{}" x1="{}%" x2="{}%" y1="0" y2="100%">{}</line>')
    for kind, ns in (("p50", latency.p50), ("p99", latency.p99), ("max", latency.max)):
        place = _number(axis.place(ns))
        drawn.append(mark.format(f"mark {kind}", place, place, _TITLE.format(f"{kind} {format_duration(ns)}")))
    return Markup('<svg class="bar heat" aria-hidden="true">{}</svg>').format(Markup("").join(drawn))


def columns(octaves: Mapping[int, int], axis: TimeAxis) -> Markup:
    """A histogram of times, an octave a column; heights are logarithmic, because counts differ by many powers."""
    most = max(octaves.values(), default=1)
    rect = Markup('<rect class="born" x="{}%" width="{}%" y="{}%" height="{}%">{}</rect>')
    drawn = []
    for end, count in sorted(octaves.items()):
        left, height = axis.place(end / 2), 100 * math.log1p(count) / math.log1p(most)
        words = f"{count:,} lived {format_duration(end / 2)} to {format_duration(end)}"
        width = max(axis.place(end) - left - 0.3, 0.2)
        drawn.append(
            rect.format(_number(left), _number(width), _number(100 - height), _number(height), _TITLE.format(words))
        )
    return Markup('<svg class="columns" role="img" aria-label="Lifetimes">{}</svg>').format(Markup("").join(drawn))


def churn(trace: DescriptorTrace, open_at_start: int, seconds: float) -> Markup:
    """How many were open, and below that births upwards and deaths downwards, an interval a column.

    `seconds`: how long the trace took, to which it is drawn. The last column is as wide as the rest that it counts; one
    that would hardly be seen is counted with the one before.
    """
    opened, closed, length = _intervals(trace, seconds)
    if not opened:
        return Markup("")
    open_now, level = [], open_at_start
    for born, died in zip(opened, closed, strict=True):
        level = max(level + born - died, 0)
        open_now.append(level)
    top = max(*open_now, open_at_start, 1)
    most = max(*opened, *closed, 1)
    whole = 100 / length
    line = " ".join(
        f"{'M' if index == 0 else 'L'}{_number(min(index, length))} {100 - 100 * count / top:.2f}"
        for index, count in enumerate([open_at_start, *open_now])
    )
    rect = Markup('<rect class="{}" x="{}%" width="{}%" y="{}" height="{}"></rect>')
    hover = Markup('<rect class="hover" x="{}%" width="{}%" y="0" height="100%">{}</rect>')
    drawn = []
    gap = min(0.25 * whole, 0.4)
    for index, (born, died, count) in enumerate(zip(opened, closed, open_now, strict=True)):
        end = length if index + 1 == len(opened) else index + 1
        width = (end - index) * whole
        left, wide = _number(index * whole + gap / 2), _number(max(width - gap, gap))
        if born:
            height = max(45 * born / most, 1)
            drawn.append(rect.format("born", left, wide, _number(187 - height), _number(height)))
        if died:
            drawn.append(rect.format("died", left, wide, 188, _number(max(45 * died / most, 1))))
        first, last = index * trace.interval_seconds, end * trace.interval_seconds
        words = f"{first} to {last:.3g} s: {born:,} opened, {died:,} closed, {count:,} open then"
        drawn.append(hover.format(_number(index * whole), _number(width), _TITLE.format(words)))
    return Markup(
        '<svg class="churn" role="img" aria-label="Descriptors over time: {start:,} open at the start, {end:,} at the '
        'end, {opened:,} opened, {closed:,} closed">'
        '<text class="scale" x="0" y="11">{top:,} open</text><text class="scale" x="0" y="{low}">0</text>'
        '<line class="rule" x1="0" x2="100%" y1="116" y2="116"></line>'
        '<svg x="0" y="16" width="100%" height="100" viewBox="0 0 {length} 100" preserveAspectRatio="none">'
        '<path class="area" d="{line} L{length} 100 L0 100 Z"></path>'
        '<path class="level" d="{line}" vector-effect="non-scaling-stroke"></path></svg>'
        '<text class="scale" x="0" y="136">{most:,} opened</text>'
        '<text class="scale" x="0" y="246">{most:,} closed</text>{drawn}{ticks}</svg>'
    ).format(
        start=open_at_start,
        end=open_now[-1],
        opened=sum(opened),
        closed=sum(closed),
        top=top,
        low=113,
        length=_number(length),
        line=line,
        most=most,
        drawn=Markup("").join(drawn),
        ticks=_ticks(length * trace.interval_seconds),
    )


def _intervals(trace: DescriptorTrace, seconds: float) -> tuple[list[int], list[int], float]:
    """Births and deaths of each interval, and how many intervals the trace took."""
    length = seconds / trace.interval_seconds if trace.interval_seconds > 0 else 0
    known = max(len(trace.opened_per_interval), len(trace.closed_per_interval))
    # Nothing may have happened at the end; but no report's length is taken for granted.
    count = max(known, math.ceil(length - _LEAST_COLUMN)) if length < _MOST_COLUMNS else known
    opened = [*trace.opened_per_interval, *[0] * (count - len(trace.opened_per_interval))]
    closed = [*trace.closed_per_interval, *[0] * (count - len(trace.closed_per_interval))]
    if not 0 < length < _MOST_COLUMNS:
        return opened, closed, float(count)
    whole = max(1, math.ceil(length - _LEAST_COLUMN))
    for counts in opened, closed:
        counts[whole - 1 :] = [sum(counts[whole - 1 :])]
    return opened, closed, length


def _ticks(seconds: float) -> Markup:
    label = Markup('<text class="tick" x="{}%" y="262" text-anchor="{}">{}</text>')
    places = [(index / (_CHURN_TICKS - 1), "middle") for index in range(1, _CHURN_TICKS - 1)]
    places = [(0.0, "start"), *places, (1.0, "end")]
    return Markup("").join(
        label.format(_number(100 * place), anchor, f"{seconds * place:.3g} s") for place, anchor in places
    )


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
