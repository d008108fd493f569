"""One module a page: what it fetches, what it shows, and the callbacks it needs."""
