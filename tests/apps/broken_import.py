"""A release that cannot be imported."""

raise RuntimeError("this release is broken: it raises on import")
