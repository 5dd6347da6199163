"""Tables of settings, wildcards in them, and pictures laid out in a table. Imports no sibling and no host."""
