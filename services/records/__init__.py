"""What is stored for longer than a message: results, blobs, API keys, replicas, platform events.

May touch: the bus. Used by the services; an answer says whether something is there, is not, or could not be
found out.
"""
