"""Engines that call users' Python: function projects in a host process, custom jobs by name."""
