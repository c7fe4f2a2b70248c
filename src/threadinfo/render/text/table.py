"""A table that a tracer hands over, as text: numbers to the right, everything else to the left."""

from __future__ import annotations

from threadinfo.model import TraceTable
from threadinfo.render.escape import format_text


def render_table(table: TraceTable) -> list[str]:
    """The lines of its section."""
    rows = [tuple(f"{cell:,}" if isinstance(cell, int) else format_text(cell) for cell in row) for row in table.rows]
    names = tuple(map(format_text, table.columns))
    columns = [(name, *(row[place] for row in rows)) for place, name in enumerate(names)]
    widths = [max(map(len, column)) for column in columns]
    are_numbers = [
        bool(rows) and all(isinstance(row[place], int) for row in table.rows) for place in range(len(table.columns))
    ]

    def line(cells: tuple[str, ...]) -> str:
        aligned = [
            f"{cell:{'>' if is_number else '<'}{width}}"
            for cell, width, is_number in zip(cells, widths, are_numbers, strict=True)
        ]
        return "  ".join(aligned).rstrip()

    lines = ["", f"=== {table.title} ===", line(names), "-" * (sum(widths) + 2 * (len(widths) - 1))]
    lines += map(line, rows)
    if table.omitted_count:
        lines.append(f"{table.omitted_count:,} more were left out")
    return lines
