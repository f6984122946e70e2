"""Local copies of what is in a bucket: photos are read as files.

recount_mirror.py    recounts
prepared_mirror.py   prepared datasets
"""
