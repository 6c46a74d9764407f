"""Configuration files become the catalog; the catalog lies in a bucket that every service watches."""
