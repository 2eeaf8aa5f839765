"""The ``supervisor`` command from the first moment on; ``python -m bastion.supervisor`` is the same.

Takes the signals before the other imports, which need some 0.2 s. Nothing has been started then: a stop has nothing to
end, and the settings that a reload would read are still to be read.
"""

import os
import signal
import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["run"]:
        _take_signals()
    from bastion.supervisor.cli import main as run_command

    run_command()


def _take_signals() -> None:
    """Have signals do what they do later, until the engine takes the signals. Handlers are inherited by no child."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, lambda *_: None)


if __name__ == "__main__":
    main()
