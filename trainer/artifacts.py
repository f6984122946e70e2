"""What a training leaves, by name: in its folder, and as artifacts of its run. Importing it takes no torch."""

MODEL_NAME = "bin-counter"
EVALUATION, PREDICTIONS = "evaluation.json", "predictions.json"
DATASET, TRAINING, REFERENCE = "dataset.json", "training.json", "reference.json"
ARCHIVE = f"archive/{MODEL_NAME}.mar"
"""Where the archive lies in a run; the others lie at its top."""
ARCHIVE_SHA = "archive_sha256"
"""The tag of a run with the SHA-256 of its archive."""
