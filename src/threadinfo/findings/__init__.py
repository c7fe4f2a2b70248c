"""What stands out in a report: a few findings, ranked, each with its number, its threshold and what to do next.

Pure: made from the report alone, so that a saved one is judged as a new one is. There is at most one finding of a kind;
it tells of the worst and counts those that are like it. The thresholds are the constants of each file, and every
finding states its own.
"""

from threadinfo.findings.judge import find, with_findings

__all__ = [
    "find",
    "with_findings",
]
