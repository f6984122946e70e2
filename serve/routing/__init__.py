"""What the promoter and the gateways tell each other: which servers and versions get the requests, and how a
challenger's answers compare with the champion's.

A gateway posts a ``Report`` to the promoter every second and gets ``Routes`` back. Neither needs the other to go on: a
gateway keeps the last routes, and a promoter that hears of no gateway moves no traffic in shares.
"""
