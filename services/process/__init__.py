"""What every process of ours needs, before it speaks to anybody: settings, logs, metrics, traces, signals,
tasks.

May touch: the operating system. Imports nothing else of ours. Used by every service and by the commands.
"""
