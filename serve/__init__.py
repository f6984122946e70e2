"""From a model archive to an answer: reading photos, serving, rolling out."""
