"""Engines that draw and enlarge pictures: diffusers and spandrel, and what they share."""
