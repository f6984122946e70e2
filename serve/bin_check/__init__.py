"""Checks the records of many bins at once, and writes the list of those to recount; scripts/check_bins.py runs it.

bin_records.py     the bins and their records: a folder, a CSV, a database
bin_listing.py     the database: one query that lists all bins
bin_photos.py      their photos: a folder, a bucket, or where the records say
asking.py          asks a server, or an archive, in parallel
checked_bin.py     what an answer says of one bin
check_journal.py   what has been answered so far, so that a check that was killed goes on
bin_check.py       the whole check
recount_list.py    the ranking, recount.csv, and what to expect
recount_page.py    recount.html
filing.py          puts alarms and the random share into the queue of recounts
"""
