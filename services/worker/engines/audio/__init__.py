"""Engines that listen: Whisper, and how a sound file becomes samples."""
