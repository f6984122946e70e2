"""The list of recounts at the gateway: what ``/verify`` adds to it, and the routes of those who count.

candidates.py       an answer of /verify as a candidate
intake.py           puts candidates into BINWATCH_RECOUNTS, behind the answers, never in their way
recount_routes.py   the routes below /recounts
recount_schemas.py  their JSON
"""
