"""How one rank does its actions."""
