"""The containers on several hosts: docker-compose.yml as a stack for Docker Swarm, and the stack's secrets.

A stack is a file for `docker stack deploy`. It is made from docker-compose.yml, so that the two cannot drift apart.
"""
