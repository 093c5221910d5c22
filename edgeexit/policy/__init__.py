"""Policies, scores, prediction sets, drift monitors and operating points: what decides, as tables of numbers."""
