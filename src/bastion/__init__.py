"""Redeploy a discord.py bot without anyone noticing.

`bastion.supervisor` is the parent, `bastion.bot` the child, `bastion.wire` the messages between them, and
`bastion.sandbox` a local Discord. Each is a link to a folder at the top of the repository. A bot imports `lifecycle`:

    from bastion import lifecycle
"""
