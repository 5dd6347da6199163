"""Schedules, guidance and samplers. Imports no sibling; host code is in host/sample."""
