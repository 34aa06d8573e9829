"""The Space: look at the clusters of a model.

    python space/app.py                                    # the embedded model on embedded images
    python space/app.py --folders runs /data --model runs/mira --data /data/pets

On Hugging Face Spaces it runs without options. Visitors may open models and data sets of the Hub, and what is in
`--folders`; nothing else on this machine, and no code of a model's repository.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import bar  # noqa: E402
import gradio as gr  # noqa: E402
from markup import ASSETS, asset  # noqa: E402
from registry import all_settings, find_pages  # noqa: E402
from shell import App  # noqa: E402
from view import Visitor, changed  # noqa: E402

from ssl_zoo.explore.models import check_data_name, check_model_name, visitor_message  # noqa: E402
from ssl_zoo.explore.offers import models_at_hand  # noqa: E402
from ssl_zoo.explore.workbench import ExploreError, Request, Rules, Workbench  # noqa: E402


MODELS = HERE / "models"

# Gradio's page selects its first tab by itself when it is built, whatever page the address names.
_BY_HAND = "(visitor, _) => [visitor, window.sslZooTouched ? 'by hand' : '']"
_FIRST = "mira-embedded"  # trained on the embedded images
_log = logging.getLogger("space")


def build(bench: Workbench, default: Request) -> gr.Blocks:
    """Lay out the bar and the pages."""
    pages = find_pages()
    settings = all_settings(pages)
    visitor = Visitor({name: setting.default for name, setting in settings.items()})
    with gr.Blocks(title="ssl_zoo: clusters", fill_width=True, analytics_enabled=False, delete_cache=(60, 60)) as demo:
        gr.HTML("<h1>What does the model think belongs together?</h1>", elem_id="title", container=False)
        tabs = gr.Tabs(selected=next(iter(pages)), elem_id="pages", overflow_behavior="wrap", render=False)
        address = gr.Textbox(visible="hidden", elem_id="address", label="Address")
        app = App(bench, gr.State(visitor), tabs, address, pages, settings)
        with gr.Column(elem_id="bar") as top:
            pass
        tabs.render()
        with tabs:
            for name, page in pages.items():
                with gr.Tab(page.title, id=name) as tab:
                    page.build(replace(app, page=name))
                app.set(tab.select, partial(_turned, name), address, js=_BY_HAND)
        with top:
            bar.build(app, demo, default)
        app.connect()
    return demo


def _turned(page: str, view: Mapping[str, str], how: str) -> Mapping[str, str]:
    """What a click on a tab changes."""
    return changed(view, page=page) if how else view


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="what is open at first: a folder, a repository on the Hub or a timm model")
    parser.add_argument("--data", help="images that are open at first: a data set on the Hub, a folder, or 'embedded'")
    parser.add_argument("--split", default="test", help="split of the images (default: test)")
    parser.add_argument("--images", type=int, default=1000, help="how many, from the first on (default: 1000)")
    parser.add_argument(
        "--folders", nargs="*", type=Path, default=[], help="folders whose models and images visitors may open"
    )
    parser.add_argument(
        "--max-images", type=int, default=10_000, help="most images that a visitor may open (default: 10000)"
    )
    parser.add_argument("--allow-remote-code", action="store_true", help="run the code of models' repositories")
    parser.add_argument(
        "--cache", type=Path, help="where features are kept (default: $SSL_ZOO_CACHE, ~/.cache/ssl_zoo)"
    )
    parser.add_argument("--host", default="0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    return parser.parse_args()


def main() -> None:
    """Serve until interrupted."""
    arguments = parse_arguments()
    cache = arguments.cache or Path(os.environ.get("SSL_ZOO_CACHE") or "~/.cache/ssl_zoo").expanduser()
    rules = Rules(
        folders=(MODELS, *(folder.resolve() for folder in arguments.folders)),
        remote_code=arguments.allow_remote_code,
        max_images=arguments.max_images,
    )
    at_hand = models_at_hand(rules)
    default = Request(
        model=arguments.model or (_FIRST if _FIRST in at_hand else next(iter(at_hand), _FIRST)),
        data=arguments.data or Request().data,
        split=arguments.split,
        images=arguments.images,
    )
    bench = Workbench(
        cache / "space",
        rules,
        resolve_model=check_model_name,
        resolve_data=check_data_name,
        describe_error=lambda error, name, place: visitor_message(error, name=name, place=place),
    )
    try:
        for _ in bench.open(default):  # before the first visitor comes
            pass
    except ExploreError as error:
        _log.warning("Nothing is open at first: %s", error)
    demo = build(bench, default)
    demo.queue(default_concurrency_limit=8).launch(
        server_name=arguments.host,
        server_port=arguments.port,
        share=False,
        ssr_mode=False,
        show_error=True,
        max_file_size=1,  # bytes: no page uploads by Gradio, which would keep files on disk
        footer_links=[],
        theme=gr.themes.Base(
            spacing_size="sm",
            radius_size="sm",
            text_size="sm",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        head=f"<script>{asset('stream.js')}</script>",
        css_paths=sorted(ASSETS.glob("*.css")),
    )


if __name__ == "__main__":
    main()
