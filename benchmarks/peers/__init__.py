"""What dljobs is measured against, as programs of their own; nothing here imports dljobs."""
