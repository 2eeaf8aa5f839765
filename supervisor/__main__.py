"""``python -m bastion.supervisor``: the same as the ``supervisor`` command."""

from bastion.supervisor.cli import main

if __name__ == "__main__":
    main()
