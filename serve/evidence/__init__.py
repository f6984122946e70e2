"""What else than the photo is evidence for or against a record: its products, their sizes and weights, a scale.

Travels in an archive, as ``serve/*.py`` does.
"""
