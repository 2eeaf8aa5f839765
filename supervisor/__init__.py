"""The parent: spawns bots side by side and moves the active role between them.

What holds at all times:

- at most one child is active; a reload that fails leaves the old one active, untouched;
- a generation is a number that is never used twice;
- the parent never imports discord, and nothing that a child says or does can end it;
- `machine` decides and does no I/O, `engine` carries out and decides nothing.
"""

__version__ = "0.1.0"
