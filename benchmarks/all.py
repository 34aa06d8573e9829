"""Run every benchmark, one after the other, and make docs/benchmarks.md.

python benchmarks/all.py [NAME ...] [--quick]

A benchmark that fails is named at the end and doesn't stop the others. Run nothing else on the machine meanwhile.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from render import ORDER


HERE = Path(__file__).resolve().parent
LONG = ("view_backends",)
"""These train for hours, and run only by name."""


def main() -> None:
    """Run them."""
    names = [*ORDER, "scaling", "gpu_estimate"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(names)} (default: all but {LONG})"
    )
    parser.add_argument("--quick", action="store_true", help="do they run? Small sizes, and nothing is recorded")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    failed = []
    for name in options.names or [name for name in names if name not in LONG]:
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, HERE / f"{name}.py", *(["--quick"] if options.quick else [])], check=False
        )
        print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)
        if done.returncode != 0:
            failed.append(name)
    if not options.quick:
        subprocess.run([sys.executable, HERE / "render.py"], check=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
