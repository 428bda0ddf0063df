"""matplotlib's backend in the box: a figure that is shown becomes the file `figure-N.png` in the workspace.

Loaded by matplotlib itself, by the name in MPLBACKEND, and only inside the box.
"""

from __future__ import annotations

import os

from matplotlib import pyplot
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg


def save_all() -> None:
    """Write every open figure under the next free number and close it, as a notebook does."""
    number = 0
    for known in pyplot.get_fignums():
        number += 1
        while os.path.exists(f"figure-{number}.png"):  # noqa: PTH110
            number += 1
        figure = pyplot.figure(known)
        figure.savefig(f"figure-{number}.png")
        pyplot.close(figure)


class FigureManager(FigureManagerBase):
    @classmethod
    def pyplot_show(cls, *, block: bool | None = None) -> None:
        save_all()


class FigureCanvas(FigureCanvasAgg):
    manager_class = FigureManager  # pyright: ignore[reportAssignmentType]  matplotlib types it as its own property
