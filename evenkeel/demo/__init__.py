"""``evenkeel demo``: three training jobs beside the server they report to, and their alerts."""
