"""A local Discord on loopback: gateway, REST, traffic, faults and a journal that tells what was lost or doubled."""
