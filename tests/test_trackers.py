"""Trackers hold what a run told them, read back from the disk by their own readers."""

import pytest
import torch

import ppl_vae
from ppl_vae.errors import UserError
from ppl_vae.programs.toy import model, posterior
from ppl_vae.training.trackers import MLflow, TensorBoard, Tracking


def fitted(tracker):
    rows = torch.linspace(-1, 1, 20)
    return ppl_vae.fit(model, posterior, rows, epochs=3, compile="off", callbacks=[Tracking(tracker)])


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_has_every_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = fitted(TensorBoard(tmp_path / "events"))
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [e.value for e in events.Scalars("train")] == pytest.approx([r["train"] for r in result.history])
    assert [e.step for e in events.Scalars("train")] == [1, 2, 3]
    assert len(events.Images("training")) == 1


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_every_epoch(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    tracker = MLflow(f"sqlite:///{tmp_path}/mlflow.db", "toy")
    try:
        result = fitted(tracker)
    finally:
        mlflow.end_run()
    client = mlflow.MlflowClient()
    kept = client.get_metric_history(tracker.run.info.run_id, "train")
    assert [m.value for m in sorted(kept, key=lambda m: m.step)] == pytest.approx([r["train"] for r in result.history])
    assert client.get_run(tracker.run.info.run_id).data.params["epochs"] == "3"


def test_an_object_that_is_no_tracker_is_refused():
    with pytest.raises(UserError, match="log_metric is missing"):
        Tracking(object())
