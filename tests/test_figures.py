"""Figures draw the numbers they are given, and never go out without alternative text."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import ConnectionPatch  # noqa: E402

from peft_lessons import figures  # noqa: E402


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_runs_are_drawn_as_means_with_every_seed_behind(ax):
    drawn = figures.plot_runs(ax, [1, 2, 4], {"LoRA": [[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]]})
    assert np.allclose(drawn["LoRA"], [20, 30, 40])
    heights = [line.get_ydata().tolist() for line in ax.lines]
    assert np.allclose(heights, [[10, 20, 30], [30, 40, 50], [20, 30, 40]])
    assert [text.get_text() for text in ax.texts] == ["LoRA"]


def test_runs_of_the_wrong_length_are_refused(ax):
    with pytest.raises(ValueError, match=r"one row of 2 for each seed"):
        figures.plot_runs(ax, [1, 2], {"LoRA": [[0.1, 0.2, 0.3]]})


def test_labels_at_the_ends_do_not_overlap(ax):
    figures.plot_runs(ax, [0, 1], {"a": [[0, 0.50]], "b": [[1, 0.501]], "c": [[0.2, 0.502]]})
    heights = sorted(text.xy[1] for text in ax.texts)
    assert min(np.diff(heights)) > 5
    tied = [artist for artist in ax.get_children() if isinstance(artist, ConnectionPatch)]
    assert sorted(artist.xy1[1] for artist in tied) == pytest.approx([50.1, 50.2])  # the lowest has not been moved


def test_labels_of_lines_that_end_at_the_top_stay_inside(ax):
    figures.plot_runs(ax, [0, 1], {"a": [[0, 1.0]], "b": [[0.5, 0.999]], "c": [[0.2, 0.998]]})
    assert len(ax.texts) == 3 and max(text.xy[1] for text in ax.texts) <= ax.get_ylim()[1]


def test_bars_are_as_long_as_their_means(ax):
    drawn = figures.plot_bars(ax, {"head only": [0.5, 0.7], "LoRA": [0.9]})
    assert drawn == pytest.approx({"head only": 60, "LoRA": 90})
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([60, 90])


def test_a_matrix_is_drawn_as_it_is_with_zero_in_the_middle(ax):
    matrix = np.array([[1.0, -3.0], [0.0, 2.0]])
    assert (figures.plot_matrix(ax, matrix, "M") == matrix).all()
    assert ax.images[0].get_clim() == (-3, 3) and (ax.images[0].get_array() == matrix).all()


def test_no_two_methods_look_alike():
    pairs = [style for name, style in figures.STYLES.items() if name != "chance"]
    assert len({marker for _, marker in pairs}) == len(pairs), "relatives may share a colour, but not the marker"


def test_a_figure_needs_alt_text_and_carries_it(ax, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", lambda data, metadata, raw: shown.append((data, metadata, raw)))
    with pytest.raises(ValueError, match="Every figure needs alt text"):
        figures.show(ax.figure, alt=" ")
    figures.show(ax.figure, alt="A line.")
    (data, metadata, raw), *rest = shown
    assert raw and not rest and data["text/plain"] == "A line." == metadata["image/png"]["alt"]
    assert data["image/png"].startswith(b"\x89PNG")
    assert not plt.fignum_exists(ax.figure.number)


def test_a_step_is_drawn_category_on_category_and_its_peak_is_found(ax):
    live = np.array([[1, 0], [1, 2], [1, 4], [1, 1], [1, 3]])
    begins = {"forward": 1, "backward": 2, "optimizer step": 4}  # row 0 is before the step
    assert figures.plot_step(ax, live, ["weights", "activations"], begins) == (5, "backward")
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in ax.collections]
    assert tops == [1, 5]
    (marker,) = [line for line in ax.lines if line.get_marker() == "v"]
    assert (marker.get_xdata()[0], marker.get_ydata()[0]) == (1, 5)
    assert [text.get_text() for text in ax.texts] == ["forward", "backward", "optimizer\nstep"]


def test_a_step_with_another_number_of_names_is_refused(ax):
    with pytest.raises(ValueError, match="2 columns and 1 names"):
        figures.plot_step(ax, np.ones((3, 2)), ["weights"], {"forward": 0})
