"""Objects by key, below a folder or a prefix of a bucket: what several processes, also of several machines, share.

object_store.py    what both can do
places.py          which of them a place names
folder_objects.py  files
bucket_objects.py  objects in S3, replaced by conditional writes
"""
