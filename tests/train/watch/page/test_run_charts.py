from sa2va_ray.train.watch.page.run_charts import build_charts


def test_a_step_from_which_a_run_went_on_twice_has_one_mark():
    rows = [{"step": step, "train/loss": 1.0} for step in (10, 20, 30)]
    charts = build_charts(rows, [{"step": 0}, {"step": 10}, {"step": 20}, {"step": 20}, {"step": 20}])
    assert charts
    marks = [(10.0, "started again at 10"), (20.0, "started again at 20")]
    assert all(list(chart.marks) == marks for chart in charts)
