"""Schedules, guidance and samplers. Plain torch; the host's side is in host/sample."""
