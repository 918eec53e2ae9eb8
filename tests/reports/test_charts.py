from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lorasmith.messages import tr
from lorasmith.reading.summary import RunSummary, summary_of
from lorasmith.reports.charts import Chart, Series, four_charts, key_of, more_charts, notes_of
from lorasmith.runs.events import Evaluated
from tests.reading.made_up import evaluated, finished, started, stepped, stopped, watched


def test_the_four_charts_and_their_baselines(summary: RunSummary) -> None:
    total, visual, semantic, color = four_charts(summary)
    assert [series.kind for series in total.series] == ["current", "average", "validation"]
    assert total.baseline == 0.182  # of the validation loss
    assert (visual.baseline, semantic.baseline, color.baseline) == (0.6, 0.5, 0.7)
    assert visual.series[0].steps == (75, 150, 225, 300)
    assert visual.best_step == 150
    assert key_of(total, "en") == [
        *((kind, tr("en", f"chart.{kind}")) for kind in ("current", "average", "validation")),
        ("baseline", tr("en", "chart.baseline_validation")),
        ("best", tr("en", "chart.best", step=150)),
    ]


def test_an_empty_chart_has_its_reason(tmp_path: Path) -> None:
    missing = summary_of(finished(tmp_path, unavailable={"semantic": "no_clip_model"}), [])
    assert four_charts(missing)[2].reason == "no_clip_model"
    nothing = summary_of([started(tmp_path, 9)], [])
    assert [chart.reason for chart in four_charts(nothing)] == ["not_stepped", *["not_evaluated"] * 3]
    assert all(chart.is_empty for chart in (*four_charts(nothing), *more_charts(nothing)))


def test_validation_on_trained_pictures_is_called_so(tmp_path: Path) -> None:
    chart = more_charts(summary_of(finished(tmp_path, is_held_out=False), []))[0]
    assert chart.title == chart.series[0].kind == "validation_on_trained"
    assert key_of(chart, "en")[0][1] == tr("en", "chart.validation_on_trained")
    assert more_charts(summary_of(finished(tmp_path), []))[0].title == "validation"


def test_gaps_and_other_pictures_are_noted(tmp_path: Path) -> None:
    events = finished(tmp_path)
    number, last = next((n, one) for n, one in enumerate(events) if isinstance(one, Evaluated) and one.step == 300)
    events[number] = replace(last, color=None, unavailable={"color": "not_finite"})
    color = four_charts(summary_of(events, []))[3]
    assert notes_of(color, "en") == [tr("en", "chart.gaps", steps="300", reason=tr("en", "unavailable.not_finite"))]
    other = Chart("validation", "validation", (Series("validation", (1, 2), (0.1, 0.2), breaks=(2,)),), 2)
    assert notes_of(other, "en") == [tr("en", "chart.changes", steps="2")]
    many = replace(color, gaps=tuple((step, "not_finite") for step in range(1, 10)))
    assert "1, 2, 3, 4, 5, 6, 7, 8 …" in notes_of(many, "en")[0]


def test_a_run_that_was_interrupted_and_continued_is_marked_where_it_continued(tmp_path: Path) -> None:
    begun = [started(tmp_path, 9), *stepped(range(1, 6)), evaluated(4, tmp_path)]
    again = [started(tmp_path, 9, attempt=2, resumed_from=4), *stepped(range(5, 10), attempt=2)]
    killed = summary_of([*begun, *again], [*watched(1, status=-9), *watched(2)])
    total, visual, *_ = four_charts(killed)
    assert (total.interruptions, visual.interruptions) == ((4,), ())
    asked = summary_of([*begun, stopped(4, "asked"), *again], [*watched(1), *watched(2)])
    assert four_charts(asked)[0].interruptions == ()
    assert key_of(total, "en")[-1] == ("interrupted", tr("en", "chart.interrupted"))
    assert four_charts(summary_of(begun, watched(1, status=-9)))[0].interruptions == ()


def test_few_single_steps_far_above_do_not_set_the_height() -> None:
    flat = Series("current", tuple(range(1, 102)), (*([0.1, 0.2] * 50), 90.0))
    assert Chart("total", "total", (flat,), 101).top == 0.2 + 0.15 * 0.1
    assert Chart("total", "total", (flat,), 101, baseline=80.0).top is None
    assert Chart("total", "total", (replace(flat, kind="average"),), 101).top is None


def test_a_series_is_cut_where_its_pictures_changed() -> None:
    series = Series("validation", (1, 2, 3, 4), (5.0, 6.0, 7.0, 8.0), (0.1, 0.2, 0.3, 0.4), (3,))
    assert [(one.steps, one.values, one.errors) for one in series.stretches()] == [
        ((1, 2), (5.0, 6.0), (0.1, 0.2)),
        ((3, 4), (7.0, 8.0), (0.3, 0.4)),
    ]
    assert [one.steps for one in Series("lr", (1, 2), (0.0, 0.0)).stretches()] == [(1, 2)]
