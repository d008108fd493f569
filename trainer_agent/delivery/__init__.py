"""From a filled frame to the server: spool on disk, sender thread, transport."""
