"""`gen-dist data VERB`: shards, from pictures on a disk to a proof that a run used each of them once."""

from __future__ import annotations

import typer

from gen_dist.cli.data.audit import audit
from gen_dist.cli.data.derive import derive
from gen_dist.cli.data.index import index
from gen_dist.cli.data.inspect import inspect
from gen_dist.cli.data.pack import pack
from gen_dist.cli.data.verify import verify

app = typer.Typer(name="data", help="Make, index and check the shards that a run reads.", rich_markup_mode=None)
app.command()(pack)
app.command()(inspect)
app.command()(index)
app.command()(verify)
app.command()(derive)
app.command()(audit)
