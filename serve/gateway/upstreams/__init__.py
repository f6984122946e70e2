"""TorchServe as several servers and versions: which of them gets a request, and what follows when one fails.

connection.py      builds all of this from the settings, and runs what goes on in the background
discovery.py       finds the servers of a name in DNS
routes_poll.py     asks the promoter which servers and versions answer
server_pool.py     the servers: how many requests each has, which one gets the next
circuit.py         when a failing server gets no more requests, and when it is tried again
sender.py          sends a request, and sends it again to another server where it was lost
trial_traffic.py   a challenger's share of the photos: copies in the background, answers compared
server_metrics.py  Prometheus metrics of servers and versions
"""
