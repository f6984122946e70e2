"""How TorchServe is started: its settings, its metrics, and a launcher whose workers import torch only if needed."""
