"""`gen-dist models VERB`: what was trained, which version is champion, and how it came to be."""

from __future__ import annotations

import typer

from gen_dist.cli.models.look import compare, history, listing, show
from gen_dist.cli.models.move import delete, pin, promote, publish, rollback, unpin

app = typer.Typer(name="models", help="List, compare, promote and roll back registered models.", rich_markup_mode=None)
app.command(name="list")(listing)
app.command()(show)
app.command()(compare)
app.command()(history)
app.command()(publish)
app.command()(promote)
app.command()(rollback)
app.command()(pin)
app.command()(unpin)
app.command()(delete)
