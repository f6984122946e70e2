"""The gateway: a small REST API and one web page in front of TorchServe.

It replaces the Lambda function that the report (docs/background.md) put in front of its endpoint.

    python -m serve.gateway        on http://127.0.0.1:8000; serve/gateway/settings.py lists the settings

    __main__.py    reads the settings and starts uvicorn
    settings.py    the settings, all from the environment
    app.py         builds the FastAPI application
    middleware.py  admission: host, origin, API key, rate limit, request size
    protocol.py    deadlines for slow clients and answers to broken ones, below HTTP
    clients.py     what one client may use: requests per second, and a share of those in progress
    keys.py        API keys, stored as hashes
    routes.py      the endpoints
    parsing.py     turns a client's request into a request to the model
    upstream.py    asks the model: the champion, or in a trial a challenger
    upstreams/     the servers and versions behind it: spreads, retries, compares
    refusal.py     turns errors into HTTP answers, and TorchServe's error answers into errors
    health.py      checks whether the champion answers
    feedback.py    stores ground truth, the real count in a bin
    schemas.py     the JSON of answers and errors, for the OpenAPI document
    metrics.py     Prometheus metrics
    static.py      serves the files of the web page
    records/       where records of bins come from, and the fields of a request
    recounts/      the list of bins to recount: what gets into it, and its routes
    page/          the web page: HTML, CSS and JavaScript, without a build step

The gateway never fetches a URL that a client sends: it passes links on to the worker, which parses them and reads S3.
"""
