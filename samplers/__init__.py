"""Schedules, guidance and samplers. Imports no sibling; host code is in comfy_*.py."""
