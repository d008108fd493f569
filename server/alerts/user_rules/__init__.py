"""Rules that users set themselves, and the published rules of other tools they may switch on."""
