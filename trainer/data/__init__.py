"""From photos and records to a dataset: read, checked for duplicates, split by bin, decoded, kept."""
