"""An app that ends its process when it is imported: a supervisor that waits for its next try has no child."""

import os

os._exit(3)
