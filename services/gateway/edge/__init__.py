"""HTTP at the edge: reading requests, writing answers, errors, access, the OpenAPI document.

Knows no model. Called by routes.
"""
