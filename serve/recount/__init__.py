"""Recounts: bins that a person is to count, in which order, and what that person found.

    recount_entities.py  a candidate and a recount, as they are stored in JSON
    queue_store.py       the folder of candidates and recounts, BINWATCH_RECOUNTS
    json_index.py        the JSON files of a folder, read again only where they have changed
    queue_order.py       who comes next, and who leaves a queue that is full
    leases.py            who counts which bin at the moment
    recount_progress.py  what was found so far against what was expected
    base_rate.py         the share of records that are wrong, from recounts of the random share
    ranking.py           a batch of bins by the probability that the record is wrong, and what its first ones hold
    mixture.py, budget.py, selection.py  what the ranking rests on; need numpy and scipy, which the gateway has not

The gateway writes the folder; the trainer reads recounts as labels, the monitoring as the test of the promise.
"""
