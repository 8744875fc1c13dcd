"""The command line that the examples share."""

import argparse


def figure_option(description):
    """Where to draw the figure, from the command line; None if it does not say."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="where to draw the figure; without it, none is drawn")
    return parser.parse_args().output
