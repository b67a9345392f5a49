"""Run the sabotage campaign: `python -m tests.sabotage [--only NAME] [--list]`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sabotage.claims import CLAIMS
from sabotage.runner import DoesNotApply, check_caught, check_green, copy_tree


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Run this claim; may be repeated.")
@click.option("--list", "listing", is_flag=True, help="Print the claims and run nothing.")
def main(only: tuple[str, ...], listing: bool) -> None:
    """Break a copy of the tree once for each claim; fail unless its tests turn red."""
    known = {claim.name for claim in CLAIMS}
    for name in only:
        if name not in known:
            raise click.ClickException(f"no such claim: {name}; --list names them")
    claims = [claim for claim in CLAIMS if not only or claim.name in only]
    if listing:
        for claim in claims:
            click.echo(f"{claim.name:<28} {claim.claim}")
        return
    with tempfile.TemporaryDirectory(prefix="gsync-sabotage-") as directory:
        copy = Path(directory)
        copy_tree(copy)
        sound = check_green(claims, copy)
        if sound.green:
            raise click.ClickException(
                "these tests are not green without a sabotage: "
                + ", ".join(sound.green)
                + f"\n{sound.output}"
            )
        missed = 0
        for claim in claims:
            start = time.monotonic()
            try:
                outcome = check_caught(claim, copy)
                says = "caught" if outcome.caught else "NOT CAUGHT"
                missed += not outcome.caught
            except DoesNotApply as error:
                outcome, says = None, f"DOES NOT APPLY: {error}"
                missed += 1
            click.echo(f"{claim.name:<28} {says} ({time.monotonic() - start:.1f} s)")
            if outcome is not None and not outcome.caught:
                click.echo(f"  claim: {claim.claim}")
                for test in outcome.green:
                    click.echo(f"  not red: {test}")
                click.echo("  | " + outcome.output.replace("\n", "\n  | "))
    click.echo(f"{len(claims) - missed} of {len(claims)} caught")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
