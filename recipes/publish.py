"""Publish a finished run, a converted checkpoint, or the page that shows clusters, on the Hugging Face Hub.

python recipes/publish.py FOLDER org/name --dry-run        # what would be sent, replaced, kept; the model card
python recipes/publish.py FOLDER org/name                  # to the branch main
python recipes/publish.py FOLDER org/name --revision imagenet1k-400ep --tag imagenet1k-400ep-v1
python recipes/publish.py FOLDER org/name --out REPOSITORY # to a folder, without a network
python recipes/publish.py --space org/name                 # the page, as a Space; docs/space.md

FOLDER is a run of recipes/train.py, the output of recipes/convert.py, or a REPOSITORY. One commit holds the backbone,
the full pretraining model, the code to load them, their recipe or conversion, the log, the results and the model card.
A failed push leaves the branch as it was; the same command continues it. More in docs/publishing.md.
"""

import argparse
import logging
import sys
from pathlib import Path

from ssl_zoo.hub.publish import Publication, PublishError, publish, write_repository
from ssl_zoo.hub.space import publish_space, write_space


SPACE = Path(__file__).parents[1] / "space"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", metavar="FOLDER", nargs="?", help="of a run, of a conversion, or that --out wrote")
    parser.add_argument("repo_id", metavar="org/name", nargs="?", help="repository; created if it doesn't exist")
    parser.add_argument("--space", metavar="org/name", help="publish the folder space/ and the package as this Space")
    parser.add_argument("--private", action="store_true", help="make it private; refused when it exists and is public")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to commit to (default: main)")
    parser.add_argument("--tag", metavar="NAME", help="name this version, such as v1; tags never move")
    parser.add_argument(
        "--i-have-permission",
        action="store_true",
        help="the authors allow me to publish weights that they released without a licence",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--dry-run", action="store_true", help="send nothing; show what would change, and the card")
    where.add_argument("--out", metavar="FOLDER", help="send nothing; write the repository to a folder")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="with --out: leave out what only serves to train on and begins as a copy, such as MIRA's student",
    )
    arguments = parser.parse_args()
    if arguments.space:
        others = (arguments.run_dir, arguments.revision, arguments.tag, arguments.compact, arguments.i_have_permission)
        if any(others) or (arguments.out and arguments.private):
            parser.error("--space goes with --private, --dry-run or --out alone")
        return arguments
    if arguments.run_dir is None or arguments.repo_id is None:
        parser.error("expected FOLDER and org/name, or --space org/name")
    if arguments.compact and not arguments.out:
        parser.error("--compact goes with --out; publish that folder then")
    if arguments.out and (arguments.tag or arguments.private or arguments.i_have_permission):
        parser.error("--out writes a folder: give --tag, --private and --i-have-permission when that is published")
    return arguments


def describe(made: Publication) -> str:
    """List the files with their sizes and what would happen to them, then the card."""
    changes = made.changes
    change_of = {}
    if changes is not None:
        groups = {"new": changes.new, "replaced": changes.replaced, "same": changes.same}
        change_of = {name: change for change, names in groups.items() for name in names}
    others = (*changes.deleted, *changes.kept) if changes is not None else ()
    width = max(len(name) for name in (*made.files, *others))
    lines = [
        f"{name:<{width}}  {size:>14,} bytes  {change_of.get(name, '')}".rstrip() for name, size in made.files.items()
    ]
    lines.append(f"{'total':<{width}}  {sum(made.files.values()):>14,} bytes")
    if changes is not None:
        lines += [f"{name:<{width}}  deleted: written by an earlier publication" for name in changes.deleted]
        lines += [f"{name:<{width}}  kept as it is: not written by a publication" for name in changes.kept]
    return "\n".join([*lines, "", *made.notes, *([""] if made.notes else []), made.card])


def _publish(arguments: argparse.Namespace) -> Publication:
    if arguments.space:
        return publish_space(SPACE, arguments.space, private=arguments.private, dry_run=arguments.dry_run)
    return publish(
        arguments.run_dir,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        tag=arguments.tag,
        with_permission=arguments.i_have_permission,
        dry_run=arguments.dry_run,
    )


def main() -> None:
    """Publish, or say why not."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ssl_zoo").setLevel(logging.INFO)
    try:
        if arguments.space and arguments.out:
            files = write_space(SPACE, arguments.out)
            print(f"Wrote {len(files)} files. To run the page: python {arguments.out}/app.py")
            return
        if arguments.out:
            files = write_repository(
                arguments.run_dir,
                arguments.repo_id,
                arguments.out,
                revision=arguments.revision,
                compact=arguments.compact,
            )
            print(f"Wrote {len(files)} files. To publish them:")
            branch = f" --revision {arguments.revision}" if arguments.revision else ""
            print(f"python recipes/publish.py {arguments.out} {arguments.repo_id}{branch}")
            return
        made = _publish(arguments)
    except PublishError as error:
        sys.exit(f"Not published. {error}")
    tagged = f", tag {arguments.tag}" if arguments.tag else ""
    if arguments.dry_run:
        print(f"Would publish to {made.repo_id}, branch {made.revision}{tagged}:\n\n{describe(made)}")
        if made.refusal is not None:
            sys.exit(f"It would be refused. {made.refusal}")
    elif made.changed:
        print(f"Published {len(made.files)} files{tagged}: {made.url}")
    else:
        print(f"Nothing has changed since the last publication{tagged}: {made.url}")


if __name__ == "__main__":
    main()
