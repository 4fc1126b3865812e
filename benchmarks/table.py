"""One figure beside another one of the same run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of ours, `beside` what it stands, and that other figure, both in `unit`.

    `most` is the highest figure that we allow ourselves, `most_ratio` the highest ratio.
    """

    group: str
    what: str
    ours: float
    unit: str
    beside: str
    other: float
    most: float | None = None
    most_ratio: float | None = None

    @property
    def ratio(self) -> float:
        """Ours divided by the other."""
        return self.ours / self.other if self.other else float("inf")

    @property
    def is_kept(self) -> bool:
        """Whether it is within what we allow ourselves."""
        return self.ours <= (self.most or self.ours) and self.ratio <= (self.most_ratio or self.ratio)

    @property
    def promise(self) -> str:
        """The limit, as text."""
        bounds = ([f"≤ {shown(self.most)} {self.unit}"] if self.most else []) + (
            [f"≤ {self.most_ratio:.2g} ×"] if self.most_ratio else []
        )
        return ", ".join(bounds) + ("" if self.is_kept or not bounds else " – missed")


HEAD = ("what", "ours", "beside", "its figure", "ratio", "promise")


def table(rows: list[Row]) -> str:
    """The rows in Markdown, aligned, so that they can be read on a terminal, too."""
    cells = [HEAD, tuple("---" for _ in HEAD)]
    cells += [
        (
            row.what,
            f"{shown(row.ours)} {row.unit}",
            row.beside,
            f"{shown(row.other)} {row.unit}",
            f"{shown(row.ratio)} ×",
            row.promise,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    )


def shown(figure: float) -> str:
    """With about three digits."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"
