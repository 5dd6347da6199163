"""The Doctor's rules by what they look at. Importing a file of this folder puts its rules into `finding.RULES`."""
