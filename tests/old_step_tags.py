"""The MLflow tag ``binwatch.done`` of each step as commit 8ed89dd wrote it, for tests that resume such executions."""

PREPARE = (
    '{"step": {"name": "prepare", "status": "Succeeded", "seconds": 1.25, "cached": false, "attempts": 1, '
    '"run_id": "prepare-run"}, "outputs": {"source": "/state/prepared/0123456789ab"}}'
)
TRAIN = (
    '{"step": {"name": "train", "status": "Succeeded", "seconds": 61.5, "cached": false, "attempts": 2, '
    '"run_id": "train-run"}, "outputs": {"fingerprint": "all-photos", "test_fingerprint": "test-photos", '
    '"run_id": "train-run", "archive_sha256": "archive-sha"}}'
)
EVALUATE = (
    '{"step": {"name": "evaluate", "status": "Succeeded", "seconds": 3.75, "cached": true, "attempts": 1, '
    '"run_id": "evaluate-run"}, "outputs": {"challenger": "train-run", "champion": "3", '
    '"champion_from": "evaluate-run", "champion_run": "champion-run", "latency_ms": {"challenger": 8.5, '
    '"champion": 9.25}}}'
)
EVALUATE_FIRST = (
    '{"step": {"name": "evaluate", "status": "Succeeded", "seconds": 3.75, "cached": true, "attempts": 1, '
    '"run_id": "evaluate-run"}, "outputs": {"challenger": "train-run", "champion": "", "latency_ms": {}}}'
)
GATE = (
    '{"step": {"name": "gate", "status": "Succeeded", "seconds": 0.5, "cached": false, "attempts": 1, '
    '"run_id": "gate-run"}, "outputs": {"version": "4", "promote": true, "reasons": ["it is better"], '
    '"challenger": {"version": "4", "accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "rmse": 1.5}, '
    '"champion": {"version": "3", "accuracy": 0.25, "accuracy_interval": [0.2, 0.3], "rmse": 2.5}}}'
)
GATE_FIRST = (
    '{"step": {"name": "gate", "status": "Succeeded", "seconds": 0.5, "cached": false, "attempts": 1, '
    '"run_id": "gate-run"}, "outputs": {"version": "1", "promote": true, "reasons": ["it is better"], '
    '"challenger": {"version": "1", "accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "rmse": 1.5}, '
    '"champion": null}}'
)
PROMOTE = (
    '{"step": {"name": "promote", "status": "Succeeded", "seconds": 12.0, "cached": false, "attempts": 1, '
    '"run_id": "promote-run"}, "outputs": {"did": "promoted", "version": "4", "reason": "it is better", '
    '"status": "promoted"}}'
)
