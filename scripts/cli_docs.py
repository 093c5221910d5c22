"""Write docs/cli.md from the commands' own --help, or check that it is up to date (--check)."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgeexit.cli import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"


def page() -> str:
    parts = ["# The command line\n\nGenerated from `--help` by `make docs`; do not edit.\n"]
    parts.append(_section("edgeexit", cli, None))
    parent = click.Context(cli, info_name="edgeexit")
    parts += [_section(f"edgeexit {name}", command, parent) for name, command in sorted(cli.commands.items())]
    return "\n".join(parts)


def _section(title: str, command: click.Command, parent: click.Context | None) -> str:
    name = title.split()[-1]
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100)
    return f"## {title}\n\n```text\n{command.get_help(context)}\n```\n"


def main() -> None:
    text = page()
    if "--write" in sys.argv:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/cli.md is not what --help says; run `make docs` and commit it")


if __name__ == "__main__":
    main()
