"""From an approved version to the champion."""
