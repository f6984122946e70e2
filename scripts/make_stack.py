"""Make docker-stack.yml, the stack for Docker Swarm, from docker-compose.yml, and the secrets that it needs.

    python scripts/make_stack.py                                   write docker-stack.yml
    python scripts/make_stack.py --check                           is it up to date?
    python scripts/make_stack.py --secrets --api-keys KEYS.json    create the secrets that the swarm does not have yet

The last needs a manager's Docker engine with MLflow's image and prints no secret; scripts/api_key.py makes KEYS.json.
Exit codes: 0 done or up to date, 1 not up to date, 2 the compose file or the swarm has what the stack cannot use.
"""

import argparse
from pathlib import Path

from serve.swarm.stack_file import render
from serve.swarm.swarm_secrets import create_secrets
from trainer import entrypoint

ROOT = Path(__file__).parents[1]
STACK = ROOT / "docker-stack.yml"


def main(args: argparse.Namespace) -> int:
    if args.secrets:
        files = {"api-keys": args.api_keys, "aws-credentials": args.aws_credentials, "pgpass": args.pgpass}
        names = create_secrets(args.image, {name: path.read_bytes() for name, path in files.items() if path})
        print(f"created {', '.join(names)}" if names else "the swarm has all secrets")
        return entrypoint.OK
    text = render((ROOT / "docker-compose.yml").read_text())
    if args.check:
        stale = not STACK.is_file() or STACK.read_text() != text
        print("docker-stack.yml is not up to date: python scripts/make_stack.py" if stale else "up to date")
        return entrypoint.ERROR if stale else entrypoint.OK
    STACK.write_text(text)
    return entrypoint.OK


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is not up to date")
    parser.add_argument("--secrets", action="store_true", help="create the secrets of the stack")
    parser.add_argument("--image", default="binwatch-mlflow", help="MLflow's image, in which secrets are made")
    parser.add_argument("--api-keys", type=Path, help="file of the hashes of API keys")
    parser.add_argument("--aws-credentials", type=Path, help="credentials file of the AWS tools, for the buckets")
    parser.add_argument("--pgpass", type=Path, help="password file of a database of records")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    entrypoint.run(main, parser.parse_args())
