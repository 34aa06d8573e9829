"""Publish a finished run on the Hugging Face Hub.

python recipes/publish.py RUN_DIR org/name [--private] [--revision BRANCH] [--dry-run]

One commit holds the backbone, the full pretraining model, the code to load them, the recipe, the log, the results and
the model card. A failed push leaves the branch as it was and can be repeated. `--dry-run` shows what would be sent.
"""

import argparse
import logging
import sys

from ssl_zoo.hub.publish import Publication, PublishError, publish


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of the run, as recipes/train.py wrote it")
    parser.add_argument("repo_id", metavar="org/name", help="repository on the Hub; made when it doesn't exist")
    parser.add_argument("--private", action="store_true", help="make it private; refused when it exists and is public")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to commit to (default: main)")
    parser.add_argument("--dry-run", action="store_true", help="send nothing; list the files and print the card")
    return parser.parse_args()


def describe(made: Publication) -> str:
    """List files with sizes, then the card."""
    width = max(len(name) for name in made.files)
    lines = [f"{name:<{width}}  {size:>14,} bytes" for name, size in made.files.items()]
    total = sum(made.files.values())
    return "\n".join([*lines, f"{'total':<{width}}  {total:>14,} bytes", "", made.card])


def main() -> None:
    """Publish, or say why not."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ssl_zoo").setLevel(logging.INFO)
    try:
        made = publish(
            arguments.run_dir,
            arguments.repo_id,
            private=arguments.private,
            revision=arguments.revision,
            dry_run=arguments.dry_run,
        )
    except PublishError as error:
        sys.exit(f"Not published. {error}")
    if arguments.dry_run:
        print(f"Would publish to {made.repo_id}, branch {made.revision}:\n\n{describe(made)}")
    elif made.changed:
        print(f"Published {len(made.files)} files: {made.url}")
    else:
        print(f"Nothing has changed since the last publication: {made.url}")


if __name__ == "__main__":
    main()
