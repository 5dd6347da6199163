"""Schedules, guidance and samplers. Plain torch; host code is in host/sample."""
