"""The gateway: one small REST API and one page in front of TorchServe, the place of the report's Lambda.

    python -m serve.gateway            on http://127.0.0.1:8000, see serve/gateway/settings.py

    __main__.py    settings, then uvicorn
    settings.py    what can be set, all from the environment
    app.py         puts the parts together
    edge.py        who gets in: host, origin, key, rate, size
    connection.py  slow and broken clients, below HTTP
    keys.py        API keys, hashed
    routes.py      what is answered at which path
    intake.py      a request -> the question for TorchServe
    upstream.py    asks TorchServe, says what its answers mean
    health.py      whether the champion answers
    feedback.py    what was really in a bin, kept as ground truth
    answers.py     the answers' and errors' forms
    metrics.py     for Prometheus
    page/          HTML, CSS and JavaScript as the browser gets them

It never fetches what a client names: links go to the worker, which parses them and reads S3.
"""
