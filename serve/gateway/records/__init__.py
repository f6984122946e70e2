"""Where records of bins come from: a folder of JSON files, a CSV or a database, as BINWATCH_RECORDS says.

    lookup.py         finds the record of a bin, off the event loop and within a time limit
    bin_record.py     a record with the fields of a request that it stands for, from JSON or from rows
    record_fields.py  the fields beside a photo, as routes accept them
    record_files.py   reads a folder of JSON files, or a CSV
    record_query.py   asks a database; the only module that needs SQLAlchemy
    location.py       checks the two settings

A source returns None for a bin that it does not know, and raises Refusal where it cannot say.
"""
