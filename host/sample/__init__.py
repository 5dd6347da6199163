"""Guidance, samplers, schedules and shift in the host's sampling."""
