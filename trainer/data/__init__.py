"""From photos and records to a dataset: fetch, read, find duplicates, split by bin, decode and cache."""
