"""Live pages: what is new reaches every open page over one WebSocket."""
