"""The earlier import names, for one version more: see `bastion_old_names`, which the `.pth` file installs."""

from bastion_old_names import OLD_NAMES, install, stand_for

__all__ = ["OLD_NAMES", "install", "stand_for"]
