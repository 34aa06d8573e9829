"""Convert a checkpoint that a method's authors published, so that it loads, evaluates and publishes like our own.

python recipes/convert.py NAME CHECKPOINT OUT [--branch BRANCH] [--repo-id org/name]

NAME says what the file is: a model of the zoo (`ssl_zoo.list_models()`, docs/zoo.md), whose numbers and licence the
card then states; a method; or `auto`, to tell by the names of the tensors. No code in the file is run, every tensor is
used or listed as left out, and OUT is written completely or not at all. See docs/converting.md.
"""

import argparse
import logging
import sys

from ssl_zoo.conversion.convert import LAYOUTS, Converted, convert_checkpoint
from ssl_zoo.conversion.layout import ConversionError
from ssl_zoo.models.registry import config_class_of, pretraining_class_of


EXAMPLES = """examples:
  python recipes/convert.py mira-resnet50.imagenet1k-800ep mira-800ep.pth converted/mira
  python recipes/convert.py corinfomax t_100_model100.pth converted/corinfomax
  python recipes/convert.py msf ckpt_epoch_200.pth converted/msf-target --branch target
  python recipes/convert.py auto downloaded.pth converted/it"""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    methods = ", ".join(sorted({layout.method for layout in LAYOUTS}))
    branches = "; ".join(
        sorted({f"{layout.method}: {', '.join(layout.branches)}" for layout in LAYOUTS if len(layout.branches) > 1})
    )
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help=f"a model of the zoo, a method ({methods}), or `auto`")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the file as it was downloaded")
    parser.add_argument("out", metavar="OUT", help="folder to make; must be missing or empty")
    parser.add_argument(
        "--branch",
        help=f"network that becomes the backbone, the first by default ({branches}); another than the first is "
        f"converted as a backbone alone",
    )
    parser.add_argument("--repo-id", metavar="org/name", help="repository that the card's code loads from")
    return parser.parse_args()


def describe(made: Converted) -> str:
    """Say what it was, what it has become, and what can be done with it."""
    about, out = made.conversion, made.folder
    source = about["source"]
    epoch = f", epoch {source['epoch']}" if source["epoch"] is not None else ""
    lines = [
        f"Recognised: layout {about['layout']} of {about['method']}{epoch}, {made.architecture}",
        f"            SHA-256 {source['sha256']}, {source['bytes']:,} bytes",
        f"Made:       {out}: "
        + ("the backbone" if about["branch"] == "backbone" else f"the {about['branch']} backbone")
        + (", and the full model in pretraining/" if made.complete else " alone"),
        *(f"            SHA-256 {file['sha256']}  {name}" for name, file in about["result"].items()),
    ]
    licence = about["license"]
    lines.append(f"Licence:    {licence['name'] if licence['id'] else 'none stated'} ({licence['where']})")
    left_out = [f"{name}: {why}" for name, why in about["left_out"].items()]
    lines += [f"{'Left out:' if number == 0 else '':<12}{line}" for number, line in enumerate(left_out)]
    lines += [f"Note:       {line}" for line in about["notes"].splitlines() if line]
    lines += ["", "Next:"]
    lines.append(
        f"  accelerate launch recipes/evaluate.py {out} --output {out} --data DATA --test-split SPLIT --protocol knn"
    )
    if any(path.parts[0] == "labels" for path in made.files):
        lines.append(f"  accelerate launch recipes/train.py RECIPE data.label_table={out}/labels")
    configuration = config_class_of(about["method"]).from_pretrained(out)
    if made.complete and pretraining_class_of(about["method"]).has_clusters(configuration):
        lines.append(f"  accelerate launch recipes/label.py {out} --data DATA --out labels.parquet")
    permission = "" if licence["id"] else " --private  # or --i-have-permission, with the authors' permission"
    lines.append(f"  python recipes/publish.py {out} org/{about['method']}-{made.architecture}{permission}")
    return "\n".join(lines)


def main() -> None:
    """Convert, or say why not."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ssl_zoo").setLevel(logging.INFO)
    try:
        made = convert_checkpoint(
            arguments.name,
            arguments.checkpoint,
            arguments.out,
            branch=arguments.branch,
            repo_id=arguments.repo_id,
        )
    except ConversionError as error:
        sys.exit(f"Not converted. {error}")
    except OSError as error:
        sys.exit(f"Not converted. {error}")
    print(describe(made))


if __name__ == "__main__":
    main()
