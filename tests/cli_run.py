"""Runs the pconv command for its tests."""

from pconv_ops import cli


def run(capsys, *arguments):
    """(status, stdout, stderr) of a command in this process."""
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err
