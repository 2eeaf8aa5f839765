"""The child: makes an unmodified discord.py app hot-swappable under the supervisor."""

if __name__ == "bot":  # the folder at the top of a checkout, by its earlier name
    from bastion.old_names import stand_for

    stand_for(__name__)
