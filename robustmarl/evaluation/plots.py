"""Heat maps of cross tables and learning curves, drawn without a display or global state."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter
from numpy.typing import ArrayLike, NDArray

from robustmarl._checks import (
    check,
    check_has,
    check_int,
    check_kind,
    check_path,
    check_text,
    writing,
)
from robustmarl.evaluation.statistics import Limits, t_band

if TYPE_CHECKING:
    from robustmarl.evaluation.tables import CrossTable

__all__ = [
    "COLOURS",
    "DPI",
    "INK",
    "curve_panels",
    "heatmap",
    "ink_on",
    "label_axes",
    "learning_curves",
    "on_common_steps",
    "saved",
]

# Okabe and Ito's palette: distinct under the common kinds of colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
DPI = 160
Colour = tuple[float, float, float, float]
INK, _FAINT = "#222222", "#777777"


def heatmap(table: CrossTable, path: str | Path | None = None) -> Figure:
    """Return a heat map with means, and their intervals in small type.

    A gap separates baselines from trained teams; missing cells are left blank. The colour scale
    is [0, 1] where all means lie there, else the range of the means.

    Args:
        table: victims x attacks.
        path: where to write it; the ending chooses the format (png, pdf, svg).

    Example:
        >>> from robustmarl.evaluation import Cell, CrossTable
        >>> cells = {"QMIX": {"none": Cell({0: [1.0, 1.0]}), "PGD": Cell({0: [0.0, 1.0]})}}
        >>> figure = heatmap(CrossTable(metric="success", cells=cells), "table.png")
        >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
        ['none', 'PGD']
    """
    check_has("heatmap.table", table, ("cell", "is_baseline"), "a CrossTable")
    path = None if path is None else check_path("heatmap.path", path)
    rows, columns = len(table.victims), len(table.attacks)
    ends = [
        i + 1
        for i, pair in enumerate(zip(table.victims, table.victims[1:], strict=False))
        if table.is_baseline(pair[0]) != table.is_baseline(pair[1])
    ]
    gap = 0.16
    tops = [i + gap * sum(end <= i for end in ends) for i in range(rows)]
    height = tops[-1] + 1.0

    longest = max(len(victim) for victim in table.victims)
    figure = Figure(
        figsize=(1.7 + 0.08 * longest + 1.3 * columns, 1.4 + 0.66 * height),
        dpi=DPI,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    means = [cell.estimate.mean for row in table.cells.values() for cell in row.values()]
    unit = min(means) >= 0.0 and max(means) <= 1.0
    norm = Normalize(0.0, 1.0) if unit else Normalize(min(means), max(means) + 1e-12)
    colours = colormaps["cividis"]
    for victim, top in zip(table.victims, tops, strict=True):
        for column, attack in enumerate(table.attacks):
            if attack not in table.cells[victim]:
                axes.text(column + 0.5, top + 0.5, "-", ha="center", va="center", color=_FAINT)
                continue
            estimate = table.cells[victim][attack].estimate
            colour = colours(norm(estimate.mean))
            axes.add_patch(_tile(column, top, colour))
            ink = ink_on(colour)
            mean, interval = str(estimate).split(" ", 1)
            for text, down, size in ((mean, 0.42, 12), (interval, 0.73, 7)):
                place = (column + 0.5, top + down)
                axes.text(*place, text, ha="center", va="center", fontsize=size, color=ink)
    for end in ends:
        y = tops[end] - gap / 2
        axes.plot([-0.02, columns + 0.02], [y, y], color=INK, linewidth=1.0, clip_on=False)
    axes.set(xlim=(0, columns), ylim=(height, 0))
    axes.set_xticks([c + 0.5 for c in range(columns)], table.attacks)
    axes.set_yticks([top + 0.5 for top in tops], table.victims)
    for label, victim in zip(axes.get_yticklabels(), table.victims, strict=True):
        label.set_fontstyle("italic" if table.is_baseline(victim) else "normal")
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=10, labelcolor=INK)
    axes.spines[:].set_visible(False)
    if table.title:
        axes.set_title(table.title, fontsize=12, color=INK, loc="left", pad=12)
    bar = figure.colorbar(_mappable(norm), ax=axes, fraction=0.035, pad=0.02, aspect=18)
    bar.set_label(table.metric, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, labelcolor=INK)
    footer = textwrap.fill(table.footer, int(16 * figure.get_figwidth()))
    figure.supxlabel(footer, fontsize=7, color=_FAINT)
    return saved("heatmap.path", figure, path)


def learning_curves(
    curves: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]],
    path: str | Path | None = None,
    *,
    xlabel: str = "environment steps",
    ylabel: str = "return",
    title: str = "",
    limits: Limits | None = None,
) -> Figure:
    """Return mean learning curves with bands over training seeds and a thin line per seed.

    Seeds may be logged at different places: they are interpolated linearly onto the points of
    the first seed that all of them reach. The band holds Student's 95 % intervals over seeds, point
    by point; a single seed has none.

    Args:
        curves: label to one (x, y) pair of arrays (P,) per training seed, x increasing.
        path: where to write it; the ending chooses the format (png, pdf, svg).
        xlabel: what x is.
        ylabel: what y is.
        title: above the axes.
        limits: the range of y, (0, 1) for shares, to which bands are cut; None is no limit.

    Raises:
        ValueError: if there is no curve, arrays of unequal length, x that does not increase,
            or seeds with no range of x in common.

    Example:
        >>> steps = [100, 200]
        >>> runs = [(steps, [0.0, 1.0]), (steps, [0.5, 1.0])]  # one per training seed
        >>> learning_curves({"QMIX": runs}).axes[0].get_legend_handles_labels()[1]
        ['QMIX (2 seeds)']
    """
    check_text("learning_curves.title", title)
    path = None if path is None else check_path("learning_curves.path", path)
    figure = Figure(figsize=(6.4, 3.8), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, "learning_curves.curves", curves, limits)
    label_axes(axes, title, xlabel, ylabel)
    handles, labels = axes.get_legend_handles_labels()
    longest = max(len(label) for label in labels)
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=max(1, min(len(labels), 80 // (longest + 6))),
        frameon=False,
        fontsize=9,
    )
    return saved("learning_curves.path", figure, path)


def curve_panels(
    panels: Mapping[str, Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]]],
    path: str | Path | None = None,
    *,
    columns: int = 3,
    xlabel: str = "environment steps",
    ylabel: str | Mapping[str, str] = "return",
    title: str = "",
    limits: Limits | Mapping[str, Limits] | None = None,
) -> Figure:
    """Return the curves of :func:`learning_curves` for several tasks, a panel each, one legend.

    Args:
        panels: title to curves. A label has one colour in all panels; a panel may lack some.
        path: where to write it; the ending chooses the format (png, pdf, svg).
        columns: panels per row, >= 1.
        xlabel: what x is.
        ylabel: what y is, or per panel.
        title: above all.
        limits: the range of y to which bands are cut, or per panel; None is no limit.

    Raises:
        ValueError: see :func:`learning_curves`; or if there is no panel.

    Example:
        >>> steps = [100, 200]
        >>> runs = [(steps, [0.0, 1.0]), (steps, [0.5, 1.0])]  # one per training seed
        >>> len(curve_panels({"3m": {"QMIX": runs}, "8m": {"QMIX": runs}}).axes)
        2
    """
    check_kind("curve_panels.panels", panels, Mapping, "a mapping from titles to curves")
    check(len(panels) > 0, "curve_panels.panels", "non-empty", panels)
    for name, curves in panels.items():
        rule = "a mapping from labels to curves"
        check_kind(f"curve_panels.panels[{name!r}]", curves, Mapping, rule)
    path = None if path is None else check_path("curve_panels.path", path)
    columns = min(check_int("curve_panels.columns", columns, 1), len(panels))
    rows = -(-len(panels) // columns)
    size = (3.4 * columns + 0.4, 2.7 * rows + 0.7)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    labels = tuple(dict.fromkeys(label for curves in panels.values() for label in curves))
    handles: dict[str, Artist] = {}
    for index, (name, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        of_panel = limits.get(name) if isinstance(limits, Mapping) else limits
        _draw(axes, f"curve_panels.panels[{name!r}]", curves, of_panel, labels)
        below = index + columns >= len(panels)
        of_y = ylabel if isinstance(ylabel, str) else ylabel.get(name, "")
        label_axes(axes, name, xlabel if below else "", of_y)
        handles |= dict(zip(curves, axes.get_legend_handles_labels()[0], strict=True))
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        fontsize=9,
    )
    if title:
        title = textwrap.fill(title, int(11 * figure.get_figwidth()))
        figure.suptitle(title, fontsize=12, color=INK)
    return saved("curve_panels.path", figure, path)


def _draw(
    axes: Axes,
    where: str,
    curves: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]],
    limits: Limits | None,
    labels: Sequence[str] | None = None,
) -> None:
    """Draw means, bands and seeds; a label's place in ``labels`` decides its style."""
    check_kind(where, curves, Mapping, "a mapping from labels to one (x, y) per seed")
    check(len(curves) > 0, where, "non-empty", curves)
    order = list(curves) if labels is None else labels
    lowest, highest = np.inf, -np.inf
    for label, seeds in curves.items():
        x, y = on_common_steps(f"{where}[{label!r}]", seeds)
        lowest, highest = min(lowest, y.min()), max(highest, y.max())
        index = order.index(label)
        colour = COLOURS[index % len(COLOURS)]
        dash = _DASHES[index // len(COLOURS) % len(_DASHES)]
        if len(y) > 1:
            band = t_band(y) if limits is None else t_band(y).clip(*limits)
            axes.fill_between(x, *band, color=colour, alpha=0.16, linewidth=0)
            for one in y:
                axes.plot(x, one, dash, linewidth=0.6, alpha=0.45, color=colour)
        name = f"{label} ({len(y)} seed{'s' if len(y) > 1 else ''})"
        axes.plot(x, y.mean(axis=0), dash, linewidth=2.0, label=name, color=colour)
    # Of two seeds a band is so wide that what it is about could not be seen beside it.
    room, (bottom, top) = highest - lowest, axes.get_ylim()
    if room > 0.0:
        axes.set_ylim(max(bottom, lowest - room), min(top, highest + room))
    elif lowest in (0.0, 1.0):  # never, or always: no share lies beyond
        axes.set_ylim(-0.03, 1.03)


def label_axes(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Name and style the axes of a figure of this package."""
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    if title:
        axes.set_title(title, fontsize=12, color=INK, loc="left")
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(colors="#bbbbbb", labelcolor=INK, labelsize=9)
    if axes.get_xlim()[1] >= 1000.0:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.01)


def on_common_steps(
    where: str, seeds: Sequence[tuple[ArrayLike, ArrayLike]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x, (P,), which all seeds reach, and their y there, (S, P), interpolated linearly.

    Args:
        where: what errors call them.
        seeds: one (x, y) pair of arrays (P,) per training seed, x increasing.
    """
    check(len(seeds) > 0, where, "one pair of arrays per seed", seeds)
    pairs = [tuple(np.asarray(values, dtype=np.float64) for values in pair) for pair in seeds]
    for x, y in pairs:
        same = x.ndim == 1 and x.shape == y.shape and x.size > 0
        check(same, where, "pairs of arrays (P,)", (x.shape, y.shape))
        check(bool((np.diff(x) > 0).all()), where, "given x that increases", x.tolist())
    low, high = max(x[0] for x, _ in pairs), min(x[-1] for x, _ in pairs)
    check(
        low <= high,
        where,
        "given seeds with a range of x in common",
        [x[[0, -1]] for x, _ in pairs],
    )
    grid = pairs[0][0]
    grid = grid[(grid >= low) & (grid <= high)]
    grid = grid if len(grid) else np.array([low, high])
    return grid, np.stack([np.interp(grid, x, y) for x, y in pairs])


def _tile(column: int, top: float, colour: Colour) -> Rectangle:
    return Rectangle((column + 0.02, top + 0.03), 0.96, 0.94, facecolor=colour, linewidth=0)


def _mappable(norm: Normalize) -> ScalarMappable:
    return ScalarMappable(norm=norm, cmap="cividis")


def ink_on(colour: Colour) -> str:
    """Return whether ``"white"`` or ``"black"`` is read better on a colour."""
    red, green, blue, _ = colour
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.4 else "black"


def saved(where: str, figure: Figure, path: str | Path | None) -> Figure:
    """Return ``figure``, written to ``path`` if there is one, which was given as ``where``."""
    if path is not None:
        path = check_path(where, path)
        known = figure.canvas.get_supported_filetypes()
        kind = path.suffix.removeprefix(".").lower()
        rule = "a file name that ends in .png, .pdf or .svg"
        check(kind in known or not kind, where, rule, str(path))
        with writing(where, path):
            figure.savefig(path)
    return figure
