"""Conformal scores anew from recounts, without training: a version with the champion's network and other scores.

promise.py               are there more false alarms than promised? the watcher starts a recalibration
recalibrate.py           from the champion and the recounts to a decision, and to a version
random_recounts.py       which recounts can calibrate
form_outputs.py          what each form of the network says of photos; runs with the code in the archive
network_scores.py        nonconformity scores from that
recalibrated_archive.py  the same archive with other scores
"""
