"""Engines that run artifacts; `edgeexit.backends` imports one when a bundle needs it."""
