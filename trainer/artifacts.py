"""The names that modules share: of the model, of the artifacts of MLflow runs, and of their tags. Imports nothing."""

MODEL_NAME = "bin-counter"

# Artifacts of a training run, named as in the folder that a training writes.
EVALUATION, PREDICTIONS = "evaluation.json", "predictions.json"
DATASET, TRAINING, REFERENCE = "dataset.json", "training.json", "reference.json"
ARCHIVE_FOLDER, ARCHIVE_FILE = "archive", f"{MODEL_NAME}.mar"
ARCHIVE = f"{ARCHIVE_FOLDER}/{ARCHIVE_FILE}"

# Artifacts of the runs of the pipeline and of the monitoring.
EXECUTION, OUTCOME = "execution.json", "outcome.json"
DECISION, DECISION_PLOT = "decision.json", "decision.png"
MONITORING = "monitoring.json"

ACCURACY = "accuracy.json"
"""The accuracy of the deployed model, beside the archives of a model store or below the prefix of a bucket."""

# Tags of runs.
ARCHIVE_SHA = "archive_sha256"
KIND_TAG = "binwatch.kind"
"""What a run records: EXECUTION_KIND or DEPLOYMENT_KIND; the runs of steps have none."""
EXECUTION_KIND, DEPLOYMENT_KIND = "execution", "deployment"
REQUEST_TAG, TOKEN_TAG = "binwatch.request", "binwatch.token"
"""The request of an execution as JSON, and its token, by which the execution is found again."""
DONE_TAG = "binwatch.done"
"""The outputs of a finished step as JSON."""
TRAINING_KEY_TAG, EVALUATION_KEY_TAG = "binwatch.training", "binwatch.evaluation"
CHAMPION_KEY_TAG = "binwatch.champion"
"""The step cache's keys of a training, of its evaluation, and of the champion's evaluation on the same photos."""
CACHED_FROM_TAG = "cached_from"
DECIDES_TAG, DECIDES_RUN_TAG = "binwatch.decides", "binwatch.decides.run"
"""The model version that a decision is about, and that version's training run."""
PRUNED_TAG = "binwatch.pruned"
"""Which artifacts of a run the retention has removed."""
RECOVERS_TAG = "binwatch.recovers"
"""The training run that is gone, in whose place this run holds its archive."""
LOGGED_TO_TAG = "binwatch.logged_to"
"""Start of the last window that a monitoring run has logged."""
