"""The import names of version 0.1.0, for one version more: see `bastion_old_names`, which the `.pth` file installs."""

from bastion_old_names import OLD_NAMES, install

__all__ = ["OLD_NAMES", "install"]
