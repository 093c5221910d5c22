"""Engines that run artifacts; `edgeexit.engine.backends` imports one when a bundle needs it."""
